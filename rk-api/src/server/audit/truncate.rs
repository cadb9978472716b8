//! A sink that keeps events and batches for another one within bounds.

use std::sync::Arc;

use async_trait::async_trait;

use super::{AuditError, AuditSink, event::Event, event::Level, report_lost};

/// How large events and batches may be (`--audit-*-truncate-*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncateConfig {
    /// The size of an event above which its objects are left out, in bytes. 100 KiB by default. One
    /// that is too large without them is lost.
    pub max_event_size: usize,
    /// The size of a batch above which it is sent in parts, in bytes. 10 MiB by default.
    pub max_batch_size: usize,
}

impl Default for TruncateConfig {
    fn default() -> Self {
        Self { max_event_size: 100 * 1024, max_batch_size: 10 * 1024 * 1024 }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Truncating {
    /// Who takes the events.
    pub sink: Arc<dyn AuditSink>,
    /// The bounds.
    pub config: TruncateConfig,
}

/// What says that objects were left out.
const TRUNCATED: &str = "audit.k8s.io/truncated";

impl Truncating {
    /// The event as it may be sent, with its size.
    fn fit(&self, event: &Arc<Event>) -> Option<(Arc<Event>, usize)> {
        let size = size(event);
        if size <= self.config.max_event_size {
            return Some((event.clone(), size));
        }
        if event.level < Level::Request {
            return None;
        }
        let mut short = Event { request_object: None, response_object: None, ..(**event).clone() };
        short.annotations.insert(TRUNCATED.to_owned(), "true".to_owned());
        let size = self::size(&short);
        (size <= self.config.max_event_size).then(|| (Arc::new(short), size))
    }
}

#[async_trait]
impl AuditSink for Truncating {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let (mut batch, mut batch_size, mut lost) = (Vec::new(), 0, 0);
        let mut result = Ok(());
        for event in events {
            let Some((event, size)) = self.fit(event) else {
                lost += 1;
                continue;
            };
            if !batch.is_empty() && batch_size + size > self.config.max_batch_size {
                result = result.and(self.sink.process(&batch).await);
                batch.clear();
                batch_size = 0;
            }
            batch_size += size;
            batch.push(event);
        }
        if !batch.is_empty() {
            result = result.and(self.sink.process(&batch).await);
        }
        if lost > 0 {
            report_lost("truncate", &AuditError::TooLarge, lost);
        }
        result
    }

    async fn flush(&self) {
        self.sink.flush().await;
    }
}

fn size(event: &Event) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting cannot fail.
    let _ = serde_json::to_writer(&mut counter, event);
    counter.0
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use serde_json::value::RawValue;

    use super::*;
    use crate::server::audit::testing::event;

    #[derive(Debug, Default)]
    struct Batches(Mutex<Vec<Vec<Arc<Event>>>>);

    #[async_trait]
    impl AuditSink for Batches {
        async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
            self.0.lock().push(events.to_vec());
            Ok(())
        }
    }

    #[tokio::test]
    async fn large_events_lose_their_objects_and_large_batches_are_sent_in_parts() {
        let large = |length: usize| {
            let object = format!("\"{}\"", "x".repeat(length));
            let object: Box<RawValue> = RawValue::from_string(object).unwrap();
            let level = Level::Request;
            Arc::new(Event { level, request_object: Some(object.into()), ..(*event("/a")).clone() })
        };
        let one = size(&large(100));
        let config = TruncateConfig { max_event_size: one, max_batch_size: 2 * one };
        let batches = Arc::new(Batches::default());
        let truncating = Truncating { sink: batches.clone(), config };
        truncating.process(&[large(100), large(101), large(100), large(100)]).await.unwrap();

        let batches = batches.0.lock();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        assert!(batches[0][0].request_object.is_some());
        assert!(batches[0][1].request_object.is_none());
        assert_eq!(batches[0][1].annotations[TRUNCATED], "true");
    }
}
