//! Frames: what the bytes on a connection mean (SPDY/3.1, section 2.2).
//!
//! ```text
//! control  |1| version 3 (15) | type (16) | flags (8) | length (24) | payload
//! data     |0| stream (31)                | flags (8) | length (24) | payload
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

const FIN: u8 = 1;
const REFUSED_STREAM: u32 = 3;

const HEAD_BYTES: usize = 8;
/// The longest control frame that is taken: they hold some headers, not data.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// The most data in one frame of ours.
const DATA_BYTES_MAX: usize = 0xff_ffff;

/// What came. Data comes in pieces, as they arrive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream; `fin` when nothing will come on it.
    SynStream { id: u32, fin: bool, headers: Bytes },
    /// Headers of a stream that is there.
    Headers { headers: Bytes },
    /// The stream is over.
    Reset { id: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// Data; `fin` when it is the last.
    Data { id: u32, data: Bytes, fin: bool },
    /// Settings, windows, goodbyes: nothing to be done.
    Other,
}

/// Takes frames out of what was read.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The data frame that is being read.
    data: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    id: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// The next frame; `None` when there is not enough of it yet.
    ///
    /// # Errors
    /// When it is not SPDY/3, or a control frame is longer than any should be.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
        if let Some(rest) = self.data.take() {
            return Ok(self.piece(rest, buffer));
        }
        let Some(mut head) = buffer.get(..HEAD_BYTES) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0xff_ffff) as usize);
        if first >> 31 == 0 {
            buffer.advance(HEAD_BYTES);
            return Ok(self.piece(Rest { id: first, fin: flags & FIN != 0, left: length }, buffer));
        }
        let (version, kind) = ((first >> 16) as u16, first as u16);
        if version != VERSION {
            return Err(invalid(format!("version {} is not 3", version & 0x7fff)));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(invalid(format!("a control frame of {length} bytes is too long")));
        }
        if buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        buffer.advance(HEAD_BYTES);
        control(kind, flags, buffer.split_to(length).freeze()).map(Some)
    }

    fn piece(&mut self, rest: Rest, buffer: &mut BytesMut) -> Option<Frame> {
        let Rest { id, fin, left } = rest;
        let data = buffer.split_to(left.min(buffer.len())).freeze();
        let left = left - data.len();
        if left > 0 {
            self.data = Some(Rest { id, fin, left });
            if data.is_empty() {
                return None;
            }
        }
        Some(Frame::Data { id, data, fin: fin && left == 0 })
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn control(kind: u16, flags: u8, mut payload: Bytes) -> io::Result<Frame> {
    let mut number = || match payload.remaining() {
        4.. => Ok(payload.get_u32() & 0x7fff_ffff),
        _ => Err(invalid("a control frame is too short")),
    };
    Ok(match kind {
        SYN_STREAM => {
            let id = number()?;
            let _associated = number()?;
            if payload.remaining() < 2 {
                return Err(invalid("a control frame is too short"));
            }
            // Priority and slot: of no use here.
            payload.advance(2);
            Frame::SynStream { id, fin: flags & FIN != 0, headers: payload }
        }
        SYN_REPLY | HEADERS => {
            number()?;
            Frame::Headers { headers: payload }
        }
        RST_STREAM => Frame::Reset { id: number()? },
        PING => Frame::Ping { id: number()? },
        _ => Frame::Other,
    })
}

fn control_frame(kind: u16, payload: &[&[u8]]) -> Bytes {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_u16(VERSION);
    frame.put_u16(kind);
    frame.put_u32(length as u32);
    payload.iter().for_each(|part| frame.extend_from_slice(part));
    frame.freeze()
}

/// Opens a stream.
pub(super) fn syn_stream(id: u32, headers: &[u8]) -> Bytes {
    // Associated with no other, of no priority, in no slot.
    control_frame(SYN_STREAM, &[&id.to_be_bytes(), &[0; 6], headers])
}

/// Accepts a stream.
pub(super) fn syn_reply(id: u32, headers: &[u8]) -> Bytes {
    control_frame(SYN_REPLY, &[&id.to_be_bytes(), headers])
}

/// Refuses a stream.
pub(super) fn refuse(id: u32) -> Bytes {
    control_frame(RST_STREAM, &[&id.to_be_bytes(), &REFUSED_STREAM.to_be_bytes()])
}

/// Answers a ping.
pub(super) fn ping(id: u32) -> Bytes {
    control_frame(PING, &[&id.to_be_bytes()])
}

/// Says that no further stream is taken.
pub(super) fn go_away() -> Bytes {
    control_frame(GOAWAY, &[&[0; 8]])
}

/// Data of a stream, in as many frames as it takes; `fin` says that it is the last.
pub(super) fn data(id: u32, mut data: &[u8], fin: bool) -> Bytes {
    let mut frames = BytesMut::with_capacity(HEAD_BYTES + data.len());
    loop {
        let (piece, rest) = data.split_at(data.len().min(DATA_BYTES_MAX));
        let flags = u32::from(fin && rest.is_empty());
        frames.put_u32(id);
        frames.put_u32(flags << 24 | piece.len() as u32);
        frames.extend_from_slice(piece);
        if rest.is_empty() {
            return frames.freeze();
        }
        data = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> io::Result<Vec<Frame>> {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let mut frames = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn data_comes_in_pieces_and_ends_with_the_last() {
        let sent = data(5, b"hello", true);
        let piece = |data: &'static [u8], fin| Frame::Data { id: 5, data: data.into(), fin };
        assert_eq!(decode(&[&sent]).unwrap(), [piece(b"hello", true)]);
        assert_eq!(
            decode(&[&sent[..3], &sent[3..10], &sent[10..]]).unwrap(),
            [piece(b"he", false), piece(b"llo", true)]
        );
        assert_eq!(decode(&[&data(5, b"", true)]).unwrap(), [piece(b"", true)]);
    }

    #[test]
    fn control_frames_are_read_whole() {
        let frames = [ping(7), refuse(3), go_away(), syn_reply(9, b"block")].concat();
        let expected = [
            Frame::Ping { id: 7 },
            Frame::Reset { id: 3 },
            Frame::Other,
            Frame::Headers { headers: Bytes::from_static(b"block") },
        ];
        assert_eq!(decode(&[&frames]).unwrap(), expected);
        assert_eq!(decode(&[&frames[..11], &frames[11..]]).unwrap(), expected);
    }

    #[test]
    fn what_is_not_spdy_is_an_error() {
        assert!(decode(&[b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"]).is_err(), "another version");
        assert!(decode(&[b"\x80\x03\0\x01\0\xff\xff\xff"]).is_err(), "too long");
        assert!(decode(&[b"\x80\x03\0\x06\0\0\0\x01\0"]).is_err(), "too short");
    }

    proptest! {
        #[test]
        fn no_input_makes_the_decoder_panic(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            decode(&pieces).ok();
        }
    }
}
