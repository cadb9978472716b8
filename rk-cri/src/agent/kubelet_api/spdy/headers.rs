//! Header blocks: names and values, compressed with zlib and a dictionary that both sides know
//! (SPDY/3.1, section 2.6.10). The compression goes on from block to block of a connection.

use std::io;

use bytes::Buf;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The most bytes that the headers of a stream may take.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Names (in lower case) and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// A header's value, by its name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn parse(mut text: &[u8]) -> Option<Self> {
        let number = |text: &mut &[u8]| (text.len() >= 4).then(|| text.get_u32() as usize);
        let string = |text: &mut &[u8]| {
            let length = number(text)?;
            let string = text.get(..length)?;
            *text = text.get(length..)?;
            Some(String::from_utf8_lossy(string).into_owned())
        };
        let count = number(&mut text)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((string(&mut text)?.to_ascii_lowercase(), string(&mut text)?));
        }
        Some(Self(headers))
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads the blocks of a connection, in their order.
#[derive(Debug)]
pub(super) struct HeaderReader {
    zlib: Decompress,
    dictionary: Vec<u8>,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true), dictionary: dictionary() }
    }

    /// Reads one block.
    ///
    /// # Errors
    /// When it is damaged or too long: the connection is of no more use then.
    pub(super) fn read(&mut self, mut block: &[u8]) -> io::Result<Headers> {
        let mut text = Vec::new();
        loop {
            if text.len() == text.capacity() {
                if text.len() >= HEADERS_BYTES_MAX {
                    return Err(invalid("the headers of a stream are too long"));
                }
                text.reserve(1024);
            }
            let (read, written) = (self.zlib.total_in(), text.len());
            let result = self.zlib.decompress_vec(block, &mut text, FlushDecompress::Sync);
            block = &block[(self.zlib.total_in() - read) as usize..];
            match result {
                Ok(_) if block.is_empty() && text.len() < text.capacity() => break,
                Ok(_) if self.zlib.total_in() > read || text.len() > written => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&self.dictionary).map_err(io::Error::other)?;
                }
                _ => return Err(invalid("the headers of a stream are damaged")),
            }
        }
        Headers::parse(&text).ok_or_else(|| invalid("the headers of a stream are damaged"))
    }
}

/// Writes the blocks of a connection. They are few and small, so they are not written for size:
/// without the dictionary, which a reader does not insist on.
#[derive(Debug)]
pub(super) struct HeaderWriter(Compress);

impl HeaderWriter {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::fast(), true))
    }

    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut text = (headers.len() as u32).to_be_bytes().to_vec();
        for part in headers.iter().flat_map(|(name, value)| [name, value]) {
            text.extend((part.len() as u32).to_be_bytes());
            text.extend(part.as_bytes());
        }
        // Room for what a flush adds, so that one call is enough.
        let mut block = Vec::with_capacity(text.len() + 64);
        self.0.compress_vec(&text, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        Ok(block)
    }
}

/// The words of the dictionary, each of which stands after its length.
const WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,\
    accept-language,accept-ranges,age,allow,authorization,cache-control,connection,content-base,\
    content-encoding,content-language,content-length,content-location,content-md5,content-range,\
    content-type,date,etag,expect,expires,from,host,if-match,if-modified-since,if-none-match,\
    if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,proxy-authenticate,\
    proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,\
    user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,\
    public,set-cookie,keep-alive,origin";

/// The rest of the dictionary.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416\
    417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad \
    Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let words = WORDS.split(',');
    let words =
        words.flat_map(|word| [&(word.len() as u32).to_be_bytes(), word.as_bytes()].concat());
    words.chain(TEXT.bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes blocks as clients do.
    fn client_writer() -> HeaderWriter {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        HeaderWriter(zlib)
    }

    #[test]
    fn the_dictionary_is_the_one_that_clients_name() {
        let mut zlib = Compress::new(Compression::fast(), true);
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(zlib.set_dictionary(&dictionary()).unwrap(), 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_are_read_one_after_the_other() {
        for mut writer in [client_writer(), HeaderWriter::new()] {
            let mut reader = HeaderReader::new();
            for request in ["0", "1", "22"] {
                let block =
                    writer.write(&[("streamtype", "error"), ("requestid", request)]).unwrap();
                let headers = reader.read(&block).unwrap();
                assert_eq!(headers.get("streamtype"), Some("error"));
                assert_eq!(headers.get("requestid"), Some(request));
                assert_eq!(headers.get("port"), None);
            }
            let long = "x".repeat(20_000);
            let block = writer.write(&[("long", &long)]).unwrap();
            assert_eq!(reader.read(&block).unwrap().get("long"), Some(&*long));
        }
    }

    #[test]
    fn damaged_and_boundless_headers_are_errors() {
        assert!(HeaderReader::new().read(b"no zlib at all").is_err());
        let mut writer = client_writer();
        let long = "x".repeat(2 * HEADERS_BYTES_MAX);
        let mut block = writer.write(&[("long", &long)]).unwrap();
        assert!(HeaderReader::new().read(&block).is_err(), "too long");
        block = client_writer().write(&[("streamtype", "data")]).unwrap();
        block.truncate(block.len() / 2);
        assert!(HeaderReader::new().read(&block).is_err(), "cut off");
    }
}
