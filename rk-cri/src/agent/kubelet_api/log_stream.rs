//! `containerLogs`: a container's log as a stream.

use std::{convert::Infallible, io, path::Path, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rk_api::clock;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
    sync::mpsc,
};

use super::{KubeletApi, KubeletBody, Query, Refusal};
use crate::{
    logs::{Line, LogFilter, LogOptions, Stream},
    runtime::{ContainerState, LogSource},
};

/// How often a log that is followed is looked at.
const POLL: Duration = Duration::from_millis(100);
const CHUNK: usize = 64 * 1024;
/// How many chunks wait for a slow reader.
const CHUNKS_MAX: usize = 4;

fn options(query: &Query) -> Result<LogOptions, String> {
    let since_seconds = query.number::<i64>("sinceSeconds")?;
    let since_time = query.number::<Timestamp>("sinceTime")?;
    let since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => {
            return Err("at most one of sinceTime or sinceSeconds may be specified".into());
        }
        (Some(seconds), None) => {
            clock::now().saturating_sub(SignedDuration::from_secs(seconds)).ok()
        }
        (None, since) => since,
    };
    let stream = match query.get("stream") {
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        _ => None,
    };
    Ok(LogOptions {
        tail_lines: query.number("tailLines")?,
        since,
        timestamps: query.flag(&["timestamps"]),
        limit_bytes: query.number("limitBytes")?,
        stream,
    })
}

impl KubeletApi {
    pub(super) async fn logs(
        self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let options = options(query).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
        let follow = query.flag(&["follow"]);
        let previous = query.flag(&["previous"]);
        let found = self.logged(namespace, pod, container, previous).await?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS_MAX);
        let reader = Reader {
            api: self,
            id: found.id,
            filter: LogFilter::new(options),
            follow: follow && !previous,
            sender,
        };
        tokio::spawn(async move {
            if let Err(error) = reader.run().await {
                tracing::debug!(%error, "a log ended early");
            }
        });
        let frames = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let frames =
            futures::StreamExt::map(frames, |bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let plain = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
        Ok(response)
    }
}

struct Reader {
    api: KubeletApi,
    id: String,
    filter: LogFilter,
    follow: bool,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn run(self) -> io::Result<()> {
        match self.source().await? {
            LogSource::File(path) => match File::open(&path).await {
                Ok(file) => self.file(file, &path).await,
                // Nothing was printed yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.follow => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    while self.runs().await && !self.sender.is_closed() {
                        tokio::time::sleep(POLL).await;
                        if let Ok(file) = File::open(&path).await {
                            return self.file(file, &path).await;
                        }
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            },
            LogSource::Memory(log) => self.memory(log).await,
        }
    }

    async fn source(&self) -> io::Result<LogSource> {
        self.api.core.runtime.container_log(&self.id).await.map_err(io::Error::other)
    }

    async fn runs(&self) -> bool {
        let status = self.api.core.runtime.container_status(&self.id).await;
        status.is_ok_and(|status| status.state == ContainerState::Running)
    }

    /// Shows some lines; whether anybody wants more.
    async fn show(&mut self, lines: &[u8]) -> bool {
        let shown = self.filter.render(lines);
        if !shown.is_empty() && self.sender.send(shown.into()).await.is_err() {
            return false;
        }
        !self.filter.exhausted() && !self.sender.is_closed()
    }

    async fn file(mut self, mut file: File, path: &Path) -> io::Result<()> {
        let end = file.seek(SeekFrom::End(0)).await?;
        let start = tail_start(&mut file, end, self.filter.tail_lines()).await?;
        file.seek(SeekFrom::Start(start)).await?;
        // Unless it is followed, a log is what it was when it was asked for.
        let mut left = if self.follow { u64::MAX } else { end - start };
        let mut pending = Vec::new();
        // The log was moved away, and goes on in this file.
        let mut next = None;
        loop {
            // Asked before the read, so that what was printed last is read after the end.
            let runs = self.follow && self.runs().await;
            let mut buffer = vec![0; CHUNK];
            loop {
                let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let count = file.read(&mut buffer[..most]).await?;
                if count == 0 {
                    break;
                }
                left -= count as u64;
                pending.extend_from_slice(&buffer[..count]);
                if let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') {
                    let lines: Vec<u8> = pending.drain(..=end).collect();
                    if !self.show(&lines).await {
                        return Ok(());
                    }
                }
            }
            if let Some(newer) = next.take() {
                file = newer;
                continue;
            }
            if self.follow {
                // Whatever was written before there was a new file is in the old one, which is read
                // to its end once more.
                next = newer_file(&file, path).await;
                if next.is_some() {
                    continue;
                }
            }
            if !runs {
                let rest = std::mem::take(&mut pending);
                self.show(&rest).await;
                return Ok(());
            }
            if self.sender.is_closed() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A log in memory loses its oldest lines, so what is new is known by its time.
    async fn memory(mut self, log: Bytes) -> io::Result<()> {
        let start = self.filter.tail_offset(&log);
        let last_time = |log: &[u8]| {
            let mut lines = log.rsplit(|byte| *byte == b'\n').filter_map(Line::parse);
            lines.next().map(|line| line.time)
        };
        let mut seen = last_time(&log);
        let mut runs = self.follow && self.runs().await;
        if !self.show(&log[start..]).await || !self.follow {
            return Ok(());
        }
        loop {
            let LogSource::Memory(log) = self.source().await? else { return Ok(()) };
            let new: Vec<&[u8]> = log
                .split_inclusive(|byte| *byte == b'\n')
                .filter(|line| {
                    let time = Line::parse(line.trim_ascii_end()).map(|line| line.time);
                    time.is_some() && time > seen
                })
                .collect();
            let new = new.concat();
            seen = last_time(&new).or(seen);
            if !self.show(&new).await || !runs {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
            runs = self.runs().await;
        }
    }
}

/// The file that has this path now, if it is another one.
async fn newer_file(file: &File, path: &Path) -> Option<File> {
    use std::os::unix::fs::MetadataExt;
    let newer = File::open(path).await.ok()?;
    let (old, new) = (file.metadata().await.ok()?, newer.metadata().await.ok()?);
    ((old.dev(), old.ino()) != (new.dev(), new.ino())).then_some(newer)
}

/// Where the last `lines` of a file that ends at `end` begin, read from there.
async fn tail_start(file: &mut File, end: u64, lines: Option<usize>) -> io::Result<u64> {
    let Some(lines) = lines else { return Ok(0) };
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut left) = (end, lines);
    let mut buffer = vec![0; CHUNK];
    while at > 0 {
        let size = at.min(CHUNK as u64);
        at -= size;
        let chunk = &mut buffer[..size as usize];
        file.seek(SeekFrom::Start(at)).await?;
        file.read_exact(chunk).await?;
        for (offset, byte) in chunk.iter().enumerate().rev() {
            let position = at + offset as u64;
            // The end of the last line is not the end of one before it.
            if *byte != b'\n' || position + 1 == end {
                continue;
            }
            left -= 1;
            if left == 0 {
                return Ok(position + 1);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tail_of_a_file_is_found_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = format!("{}\n", "x".repeat(999));
        std::fs::write(&path, line.repeat(300)).unwrap();
        let mut file = File::open(&path).await.unwrap();
        let end = 300_000;
        for (lines, expected) in [(0, 300_000), (1, 299_000), (150, 150_000), (300, 0), (999, 0)] {
            assert_eq!(tail_start(&mut file, end, Some(lines)).await.unwrap(), expected, "{lines}");
        }
        assert_eq!(tail_start(&mut file, end, None).await.unwrap(), 0);
    }
}
