//! Frames of clients in memory: the first one that is whole, and responses as frames.

use smr::codec::{self, CodecError, FrameHeader, HEADER_LEN_BYTES};

use crate::frames::{ClientResponse, KIND_RESPONSE, Map, ResponseFrame};

/// When a client that was told `Busy` may try again, in milliseconds.
pub(super) const RETRY_AFTER_MS: u32 = 50;

/// A whole frame in a buffer.
pub(super) struct Frame<'a> {
    /// What it is.
    pub(super) kind: u16,
    /// Its verified payload.
    pub(super) payload: &'a [u8],
    /// Its length with the header.
    pub(super) len_bytes: usize,
}

/// The first frame in `buffer`; `None` if it is not all there yet.
///
/// # Errors
/// If what is there cannot become a valid frame.
pub(super) fn next_frame(buffer: &[u8], payload_max_bytes: usize) -> Result<Option<Frame<'_>>, CodecError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_LEN_BYTES>() else { return Ok(None) };
    let header = FrameHeader::parse(header, payload_max_bytes)?;
    let Some(payload) = rest.get(..header.payload_len_bytes) else { return Ok(None) };
    header.verify(payload)?;
    Ok(Some(Frame { kind: header.kind, payload, len_bytes: HEADER_LEN_BYTES + payload.len() }))
}

/// Appends a response as a frame.
pub(super) fn encode<M: Map>(buffer: &mut Vec<u8>, response: ResponseFrame<M>) {
    let id = response.id;
    if let Err(error) = codec::frame(buffer, KIND_RESPONSE, &response) {
        // Limits make this impossible; a client that waits for ever would be worse than one that learns of the bug.
        tracing::error!(%error, "an answer does not fit into a frame");
        let body = ClientResponse::Refused(format!("the answer does not fit: {error}"));
        codec::frame(buffer, KIND_RESPONSE, &ResponseFrame::<M> { id, body })
            .unwrap_or_else(|error| panic!("a refusal does not fit: {error}"));
    }
}
