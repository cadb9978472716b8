//! Reading zstd (RFC 8878): any number of frames, and skippable ones between them, which tools hide
//! tables of contents in.

use std::io::{self, Read};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The largest window that is allocated, as the reference implementation does by default.
const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// Whether content that begins so is zstd: a frame, or a skippable one.
pub(super) fn begins(magic: [u8; 4]) -> bool {
    let number = u32::from_le_bytes(magic);
    number == 0xfd2f_b528 || (0x184d_2a50..=0x184d_2a5f).contains(&number)
}

/// The content of all frames, one after the other.
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    /// Within a frame, or not.
    open: bool,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { source, decoder, open: false }
    }

    /// Opens the next frame with content; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            let mut first = [0; 1];
            if self.source.read(&mut first)? == 0 {
                return Ok(false);
            }
            let mut header = (&first[..]).chain(&mut self.source);
            match self.decoder.init(&mut header) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.open {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.open = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn skippable(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&0x184d_2a50_u32.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Frames::new(bytes).read_to_end(&mut content)?;
        Ok(content)
    }

    proptest! {
        #[test]
        fn frames_are_read_one_after_the_other_and_skippable_ones_skipped(
            parts in prop::collection::vec((prop::collection::vec(0..4_u8, 0..3000), any::<bool>()), 0..5)
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (content, skip) in &parts {
                if *skip {
                    bytes.extend(skippable(content));
                } else {
                    bytes.extend(compress_to_vec(&content[..], CompressionLevel::Fastest));
                    expected.extend_from_slice(content);
                }
            }
            prop_assert_eq!(read(&bytes).unwrap(), expected);
        }

        #[test]
        fn a_frame_that_is_cut_off_is_an_error(cut in 1..40_usize) {
            let whole = compress_to_vec(&b"some content, and some content again"[..], CompressionLevel::Fastest);
            prop_assume!(cut < whole.len());
            prop_assert!(read(&whole[..whole.len() - cut]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let frame = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
            let _ = read(&frame);
        }
    }
}
