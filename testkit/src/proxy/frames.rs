//! Whole frames that do not arrive, on a connection whose bytes are otherwise as they were sent.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use smr::codec::{FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES};

/// Takes frames apart, and loses some.
#[derive(Default)]
pub(super) struct Frames {
    /// The beginning of a frame that is not here whole.
    rest: Vec<u8>,
    /// Frames that were here so far.
    count: u64,
    /// What came is no frame: everything passes.
    is_foreign: bool,
}

impl Frames {
    /// What arrives once these bytes have come, if this many frames in a thousand are lost, and how many were. The
    /// first frame always arrives: without its handshake a connection would not come about.
    pub(super) fn pass(&mut self, bytes: &[u8], permille: u16, random: &mut ChaCha8Rng) -> (Vec<u8>, u64) {
        self.rest.extend_from_slice(bytes);
        let (mut out, mut lost) = (Vec::new(), 0);
        while let Some(len_bytes) = self.next_frame() {
            let frame = self.rest.drain(..len_bytes);
            if self.count > 0 && random.random_range(0..1000) < permille {
                lost += 1;
            } else {
                out.extend(frame.as_slice());
            }
            drop(frame);
            self.count += 1;
        }
        if self.is_foreign {
            out.append(&mut self.rest);
        }
        (out, lost)
    }

    /// The length of the frame that is here whole.
    fn next_frame(&mut self) -> Option<usize> {
        let header = self.rest.first_chunk::<HEADER_LEN_BYTES>().filter(|_| !self.is_foreign)?;
        match FrameHeader::parse(header, FRAME_PAYLOAD_MAX_BYTES) {
            Ok(header) => Some(HEADER_LEN_BYTES + header.payload_len_bytes).filter(|len| *len <= self.rest.len()),
            Err(_) => {
                self.is_foreign = true;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use smr::codec;

    use super::*;

    fn stream(count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 0..count {
            codec::frame(&mut bytes, 7, &(number, vec![0u8; number as usize % 50])).unwrap();
        }
        bytes
    }

    /// The numbers of the frames that arrive whole, whatever pieces the bytes come in.
    fn arrived(bytes: &[u8], piece: usize, permille: u16) -> (Vec<u64>, u64) {
        let (mut frames, mut random) = (Frames::default(), ChaCha8Rng::seed_from_u64(3));
        let (mut out, mut lost) = (Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            let (passed, more) = frames.pass(piece, permille, &mut random);
            out.extend(passed);
            lost += more;
        }
        let (mut numbers, mut rest) = (Vec::new(), &out[..]);
        while let Some(header) = rest.first_chunk() {
            let header = FrameHeader::parse(header, FRAME_PAYLOAD_MAX_BYTES).unwrap();
            let (frame, after) = rest.split_at(HEADER_LEN_BYTES + header.payload_len_bytes);
            header.verify(&frame[HEADER_LEN_BYTES..]).unwrap();
            numbers.push(codec::decode::<(u64, Vec<u8>)>(&frame[HEADER_LEN_BYTES..]).unwrap().0);
            rest = after;
        }
        (numbers, lost)
    }

    #[test]
    fn some_frames_are_lost_whole_and_the_others_arrive_as_they_were() {
        let bytes = stream(1000);
        for piece in [1, 7, 4096] {
            assert_eq!(arrived(&bytes, piece, 0), ((0..1000).collect(), 0));
            let (numbers, lost) = arrived(&bytes, piece, 50);
            assert_eq!((numbers[0], numbers.len() as u64 + lost), (0, 1000));
            assert!((20..100).contains(&lost), "{lost} of 1000");
            assert!(numbers.is_sorted());
        }
    }

    #[test]
    fn bytes_that_are_no_frames_arrive() {
        let (mut frames, mut random) = (Frames::default(), ChaCha8Rng::seed_from_u64(3));
        let text = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
        assert_eq!(frames.pass(text, 1000, &mut random), (text.to_vec(), 0));
        assert_eq!(frames.pass(b"more", 1000, &mut random), (b"more".to_vec(), 0));
    }
}
