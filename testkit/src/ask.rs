//! One question to one replica, over its own port: blocking, a connection per question, with short deadlines.
//!
//! The library in `madkv-client` finds leaders and retries; here the point is to hear what *this* replica says. It
//! speaks the oldest version, so that a replica of the build before this one understands it, too.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use madkv_proto::frames::{
    ClientRequest, ClientResponse, Hello, KIND_HELLO, KIND_REFUSAL, KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, MAGIC,
    Refusal, RequestFrame, ResponseFrame, Service,
};
use smr::codec::{FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES, decode, frame};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Asks the replica that listens at `address` as `service`.
///
/// # Errors
/// If it cannot be reached, refuses, says nothing for `timeout`, or gives a malformed answer.
pub fn ask(
    address: SocketAddr,
    service: Service,
    question: ClientRequest,
    timeout: Duration,
) -> io::Result<ClientResponse> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    let mut out = Vec::new();
    frame(&mut out, KIND_HELLO, &Hello { magic: MAGIC, cluster: None, service }).map_err(malformed)?;
    frame(&mut out, KIND_REQUEST, &RequestFrame { id: 1, epoch: 0, ask: question }).map_err(malformed)?;
    stream.write_all(&out)?;
    loop {
        let (kind, payload) = read_frame(&mut stream)?;
        match kind {
            KIND_WELCOME => {}
            KIND_REFUSAL => {
                let refusal: Refusal = decode(&payload).map_err(malformed)?;
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, refusal.reason));
            }
            KIND_RESPONSE => {
                let response: ResponseFrame = decode(&payload).map_err(malformed)?;
                return Ok(response.body);
            }
            other => return Err(malformed(format!("frame of kind {other:#x}"))),
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<(u16, Vec<u8>)> {
    let mut header = [0; HEADER_LEN_BYTES];
    stream.read_exact(&mut header)?;
    let header = FrameHeader::parse(&header, FRAME_PAYLOAD_MAX_BYTES).map_err(malformed)?;
    let mut payload = vec![0; header.payload_len_bytes];
    stream.read_exact(&mut payload)?;
    header.verify(&payload).map_err(malformed)?;
    Ok((header.kind, payload))
}

fn malformed(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
