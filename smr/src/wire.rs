//! Frames over sockets, for everyone: peers, clients and servers.
//!
//! [`crate::codec`] says what a frame is; this module moves frames through a byte stream. What it guarantees:
//! - A frame is given out only when it is whole and its checksum fits. A stream that ends inside a frame is an error
//!   ([`WireError::CutOff`]); one that ends between two frames is an orderly end (`None`).
//! - The announced length is checked against the limit before anything is allocated (fault catalogue B2), and memory
//!   grows with the bytes that have arrived, not with the bytes that were saved: sixteen hostile bytes never cost
//!   megabytes.
//! - Nothing waits for ever on a reader that does not read: [`write_all`] gives up without progress (N7).
//!
//! [`FrameReader`] is for connections that carry many frames: one read takes what the kernel has, and the frames in
//! it are given out without another system call. [`read_frame`] is for the odd single one.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;

use crate::codec::{CodecError, FrameHeader, HEADER_LEN_BYTES};

/// How much room each read offers to the kernel, in bytes; also the step in which memory grows.
pub const READ_STEP_BYTES: usize = 64 << 10;
/// A buffer that a large frame has blown up beyond this many bytes is given back once it is empty.
pub const BUFFER_KEEP_MAX_BYTES: usize = 1 << 20;

/// What can go wrong on a connection. After any of these it is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The operating system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side closed the connection in the middle of a frame.
    #[error("the connection ended inside a frame")]
    CutOff,
    /// The bytes are no frame that we take.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// The other side has not taken a byte for this long.
    #[error("no progress for {0:?}")]
    Stalled(Duration),
}

impl WireError {
    /// Whether the other side ended the connection (orderly or not), as opposed to us, or to the network between.
    pub fn is_closed_by_peer(&self) -> bool {
        match self {
            WireError::CutOff => true,
            WireError::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            WireError::Codec(_) | WireError::Stalled(_) => false,
        }
    }
}

/// One whole, verified frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is; each protocol numbers its own kinds.
    pub kind: u16,
    /// Its bytes, of which the checksum has been verified.
    pub payload: &'a [u8],
}

/// Reads one frame and no byte more. `buffer` holds the payload afterwards; its previous contents are lost.
///
/// `None` if the stream ends before the frame's first byte. Not cancel safe: dropped half-way, it has eaten bytes.
///
/// # Errors
/// [`WireError`]; a payload longer than `payload_max_bytes` is [`CodecError::TooLong`].
pub async fn read_frame<'b, R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &'b mut Vec<u8>,
    payload_max_bytes: usize,
) -> Result<Option<Frame<'b>>, WireError> {
    let mut head = [0; HEADER_LEN_BYTES];
    let mut filled = 0;
    while filled < HEADER_LEN_BYTES {
        match reader.read(&mut head[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(WireError::CutOff),
            count => filled += count,
        }
    }
    let header = FrameHeader::parse(&head, payload_max_bytes)?;
    buffer.clear();
    while buffer.len() < header.payload_len_bytes {
        let step = (header.payload_len_bytes - buffer.len()).min(READ_STEP_BYTES);
        buffer.reserve(step);
        if (&mut *reader).take(step as u64).read_buf(buffer).await? == 0 {
            return Err(WireError::CutOff);
        }
    }
    header.verify(buffer)?;
    Ok(Some(Frame { kind: header.kind, payload: buffer }))
}

/// Takes the frames out of a byte stream, many per read.
///
/// Both ways to get a frame are cancel safe. After an error the reader repeats it, or another one.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    payload_max_bytes: usize,
    /// What was read; the frames before `start` have been given out.
    buffer: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader that refuses payloads longer than `payload_max_bytes`.
    pub fn new(reader: R, payload_max_bytes: usize) -> FrameReader<R> {
        FrameReader { reader, payload_max_bytes, buffer: Vec::new(), start: 0 }
    }

    /// Changes the limit for the frames that follow, in bytes: a handshake needs less than what comes after it.
    pub fn set_payload_max_bytes(&mut self, payload_max_bytes: usize) {
        self.payload_max_bytes = payload_max_bytes;
    }

    /// The next frame; waits for it. `None` if the stream ended between two frames.
    ///
    /// # Errors
    /// [`WireError`], but never [`WireError::Stalled`].
    pub async fn next(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        let (kind, length) = loop {
            if let Some(found) = self.take()? {
                break found;
            }
            if self.fill().await? == 0 {
                return if self.start == self.buffer.len() { Ok(None) } else { Err(WireError::CutOff) };
            }
        };
        Ok(Some(Frame { kind, payload: &self.buffer[self.start - length..self.start] }))
    }

    /// The next frame if it has been read already; `None` if it has not. Never waits and makes no system call.
    ///
    /// # Errors
    /// [`WireError::Codec`].
    pub fn buffered(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        Ok(match self.take()? {
            Some((kind, length)) => Some(Frame { kind, payload: &self.buffer[self.start - length..self.start] }),
            None => None,
        })
    }

    /// Moves `start` after the next frame, if it is whole. Returns its kind and the length of its payload, which then
    /// ends at `start`.
    fn take(&mut self) -> Result<Option<(u16, usize)>, WireError> {
        let unread = &self.buffer[self.start..];
        let Some((head, rest)) = unread.split_first_chunk::<HEADER_LEN_BYTES>() else {
            return Ok(None);
        };
        let header = FrameHeader::parse(head, self.payload_max_bytes)?;
        let Some(payload) = rest.get(..header.payload_len_bytes) else {
            return Ok(None);
        };
        header.verify(payload)?;
        self.start += HEADER_LEN_BYTES + header.payload_len_bytes;
        Ok(Some((header.kind, header.payload_len_bytes)))
    }

    /// Reads once. Returns how many bytes came; 0 at the end of the stream.
    async fn fill(&mut self) -> Result<usize, WireError> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            if self.buffer.capacity() > BUFFER_KEEP_MAX_BYTES {
                self.buffer = Vec::new();
            }
        } else {
            // Once per read at most, and only the part of a frame that is still incomplete.
            self.buffer.drain(..self.start);
        }
        self.start = 0;
        // Doubles at most, so the memory stays within twice what has arrived, plus a step.
        self.buffer.reserve(READ_STEP_BYTES);
        Ok(self.reader.read_buf(&mut self.buffer).await?)
    }
}

/// Writes all of `bytes`, in as few system calls as the kernel allows. Returns whether it had to wait for the other
/// side to take something: then that side is known to be alive.
///
/// # Errors
/// [`WireError::Stalled`] if nothing at all was taken for `stall_max`; [`WireError::Io`].
pub async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut bytes: &[u8],
    stall_max: Duration,
) -> Result<bool, WireError> {
    let mut rounds = 0;
    while !bytes.is_empty() {
        let taken = timeout(stall_max, writer.write(bytes)).await.map_err(|_| WireError::Stalled(stall_max))??;
        if taken == 0 {
            return Err(WireError::Io(io::ErrorKind::WriteZero.into()));
        }
        bytes = &bytes[taken..];
        rounds += 1;
    }
    Ok(rounds > 1)
}

/// A connection's way out to which several may write, one at a time. With its last owner it is shut down for writing.
pub trait SharedOutput: Send + Sync + 'static {
    /// Writes what is taken at once.
    ///
    /// # Errors
    /// Those of the connection; [`io::ErrorKind::WouldBlock`] if nothing is taken now.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Whether something may be taken again. Only one task at a time may wait.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl SharedOutput for OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        OwnedWriteHalf::try_write(self, bytes)
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_ref().poll_write_ready(context)
    }
}

/// Like [`write_all`], for an output to which others may write too ([`SharedOutput::try_write`]) while no one is in
/// here.
///
/// # Errors
/// As [`write_all`].
pub async fn write_all_shared(
    socket: &dyn SharedOutput,
    mut bytes: &[u8],
    stall_max: Duration,
) -> Result<bool, WireError> {
    let mut waited = false;
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(0) => return Err(WireError::Io(io::ErrorKind::WriteZero.into())),
            Ok(taken) => bytes = &bytes[taken..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                waited = true;
                timeout(stall_max, poll_fn(|context| socket.poll_writable(context)))
                    .await
                    .map_err(|_| WireError::Stalled(stall_max))??;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(waited)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{FRAME_PAYLOAD_MAX_BYTES, frame};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn frames(values: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in values.iter().enumerate() {
            frame(&mut bytes, kind as u16, value).unwrap();
        }
        bytes
    }

    #[test]
    fn many_frames_in_one_read_come_out_one_by_one() {
        runtime().block_on(async {
            let bytes = frames(&[vec![1], vec![], vec![3; 100_000]]);
            let mut reader = FrameReader::new(&bytes[..], FRAME_PAYLOAD_MAX_BYTES);
            assert_eq!(reader.buffered().unwrap(), None);
            assert_eq!(reader.next().await.unwrap().unwrap().kind, 0);
            assert_eq!(reader.buffered().unwrap().unwrap().kind, 1);
            assert_eq!(reader.buffered().unwrap(), None);
            assert_eq!(reader.next().await.unwrap().unwrap().payload.len(), 100_008);
            assert_eq!(reader.next().await.unwrap(), None);
        });
    }

    // covers B1
    #[test]
    fn every_proper_prefix_of_a_frame_is_cut_off() {
        runtime().block_on(async {
            let bytes = frames(&[vec![1, 2, 3]]);
            for length in 1..bytes.len() {
                let mut reader = FrameReader::new(&bytes[..length], 100);
                assert!(matches!(reader.next().await, Err(WireError::CutOff)), "{length}");
                let mut buffer = Vec::new();
                let read = read_frame(&mut &bytes[..length], &mut buffer, 100).await;
                assert!(matches!(read, Err(WireError::CutOff)), "{length}");
            }
            let mut buffer = Vec::new();
            assert_eq!(read_frame(&mut &bytes[..0], &mut buffer, 100).await.unwrap(), None);
            assert_eq!(read_frame(&mut &bytes[..], &mut buffer, 100).await.unwrap().unwrap().payload.len(), 11);
        });
    }

    // covers B1
    #[test]
    fn every_flipped_bit_is_noticed() {
        runtime().block_on(async {
            let whole = frames(&[vec![1, 2, 3]]);
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(FrameReader::new(&bytes[..], 1000).next().await.is_err(), "{bit}");
                assert!(read_frame(&mut &bytes[..], &mut Vec::new(), 1000).await.is_err(), "{bit}");
            }
        });
    }

    // covers B2
    #[test]
    fn lengths_around_the_limit_taken_up_to_it_and_refused_beyond_without_allocation() {
        runtime().block_on(async {
            let bytes = frames(&[vec![7; 92]]); // 100 with the length of the sequence
            assert!(FrameReader::new(&bytes[..], 100).next().await.is_ok());
            let mut reader = FrameReader::new(&bytes[..], 99);
            let error = reader.next().await.unwrap_err();
            assert!(matches!(error, WireError::Codec(CodecError::TooLong { found: 100, limit: 99 })), "{error}");
            let mut announced = bytes.clone();
            announced[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(FrameReader::new(&announced[..], FRAME_PAYLOAD_MAX_BYTES).next().await.is_err());
        });
    }

    // covers B2
    #[test]
    fn announced_length_costs_no_more_memory_than_the_bytes_that_came() {
        runtime().block_on(async {
            let mut bytes = frames(&[vec![7; 100]]);
            bytes[0..4].copy_from_slice(&(FRAME_PAYLOAD_MAX_BYTES as u32).to_le_bytes());
            let mut reader = FrameReader::new(&bytes[..], FRAME_PAYLOAD_MAX_BYTES);
            assert!(matches!(reader.next().await, Err(WireError::CutOff)));
            assert!(reader.buffer.capacity() <= 2 * READ_STEP_BYTES, "{}", reader.buffer.capacity());
            let mut buffer = Vec::new();
            assert!(read_frame(&mut &bytes[..], &mut buffer, FRAME_PAYLOAD_MAX_BYTES).await.is_err());
            assert!(buffer.capacity() <= 2 * READ_STEP_BYTES, "{}", buffer.capacity());
        });
    }

    #[test]
    fn buffer_of_a_large_frame_is_given_back() {
        runtime().block_on(async {
            let bytes = frames(&[vec![7; 3 << 20], vec![1]]);
            let mut reader = FrameReader::new(&bytes[..], FRAME_PAYLOAD_MAX_BYTES);
            assert!(reader.next().await.unwrap().is_some());
            assert!(reader.next().await.unwrap().is_some());
            assert_eq!(reader.next().await.unwrap(), None);
            assert!(reader.buffer.capacity() <= BUFFER_KEEP_MAX_BYTES, "{}", reader.buffer.capacity());
        });
    }

    // covers N7
    #[test]
    fn write_to_one_who_never_reads_gives_up() {
        runtime().block_on(async {
            let (mut near, _far) = tokio::io::duplex(1000);
            let error = write_all(&mut near, &[0; 2000], Duration::from_millis(20)).await.unwrap_err();
            assert!(matches!(error, WireError::Stalled(_)), "{error}");
        });
    }
}
