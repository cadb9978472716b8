//! A sink that gathers events into batches for another one, so that requests do not wait.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{AuditError, AuditSink, event::Event, report_lost};

/// How events are gathered (`--audit-*-batch-*`).
#[derive(Clone, Debug, PartialEq)]
pub struct BatchConfig {
    /// How many events may wait; more are lost.
    pub buffer_size: usize,
    /// The most events of a batch.
    pub max_batch_size: usize,
    /// How long an event waits for its batch to fill.
    pub max_batch_wait: Duration,
    /// Batches per second and how many may be sent at once after a pause; `None` for no limit.
    pub throttle: Option<(f32, usize)>,
    /// Whether a batch does not wait for the one before to be taken.
    pub parallel: bool,
}

impl BatchConfig {
    /// What a log has by default: batches of one.
    pub fn for_log() -> Self {
        Self {
            buffer_size: 10_000,
            max_batch_size: 1,
            max_batch_wait: Duration::ZERO,
            throttle: None,
            parallel: false,
        }
    }

    /// What a webhook has by default: up to 400 events every 30 seconds.
    pub fn for_webhook() -> Self {
        Self {
            buffer_size: 10_000,
            max_batch_size: 400,
            max_batch_wait: Duration::from_secs(30),
            throttle: Some((10.0, 15)),
            parallel: true,
        }
    }
}

enum Item {
    Event(Arc<Event>),
    Flush(oneshot::Sender<()>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Batching {
    queue: mpsc::Sender<Item>,
}

impl Batching {
    /// Starts to gather events for `sink`, until this is dropped.
    pub(super) fn start(sink: Arc<dyn AuditSink>, config: BatchConfig) -> Self {
        let (queue, events) = mpsc::channel(config.buffer_size.max(1));
        tokio::spawn(gather(events, sink, config));
        Self { queue }
    }
}

#[async_trait]
impl AuditSink for Batching {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        for (sent, event) in events.iter().enumerate() {
            if let Err(error) = self.queue.try_send(Item::Event(event.clone())) {
                let error = match error {
                    mpsc::error::TrySendError::Full(_) => AuditError::QueueFull,
                    mpsc::error::TrySendError::Closed(_) => AuditError::Stopped,
                };
                report_lost("buffered", &error, events.len() - sent);
                // A request is not refused for it.
                break;
            }
        }
        Ok(())
    }

    async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            // The other end always answers or is gone.
            let _ = flushed.await;
        }
    }
}

async fn gather(mut events: mpsc::Receiver<Item>, sink: Arc<dyn AuditSink>, config: BatchConfig) {
    let mut throttle = config.throttle.map(|(qps, burst)| Throttle::new(qps, burst));
    let mut sending = tokio::task::JoinSet::new();
    let mut ended = false;
    while !ended {
        let mut batch = Vec::new();
        let mut flush = None;
        // The wait begins with the first event, so that nothing is done while there are none.
        let mut until = None;
        while batch.len() < config.max_batch_size.max(1) {
            let received = match until {
                None => Ok(events.recv().await),
                Some(until) => tokio::time::timeout_at(until, events.recv()).await,
            };
            match received {
                Ok(Some(Item::Event(event))) => {
                    batch.push(event);
                    until.get_or_insert_with(|| Instant::now() + config.max_batch_wait);
                }
                Ok(Some(Item::Flush(done))) => {
                    flush = Some(done);
                    break;
                }
                Ok(None) => {
                    ended = true;
                    break;
                }
                Err(_) => break,
            }
        }
        if !batch.is_empty() {
            if let Some(throttle) = &mut throttle {
                tokio::time::sleep_until(throttle.take(Instant::now())).await;
            }
            let sink = sink.clone();
            let send = async move {
                let size = batch.len();
                if let Err(error) = sink.process(&batch).await {
                    report_lost("buffered", &error, size);
                }
            };
            if config.parallel {
                while sending.try_join_next().is_some() {}
                sending.spawn(send);
            } else {
                send.await;
            }
        }
        if flush.is_some() || ended {
            while sending.join_next().await.is_some() {}
            sink.flush().await;
        }
        if let Some(done) = flush {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }
}

/// A token bucket.
struct Throttle {
    per_token: Duration,
    burst: u32,
    /// When the bucket would be full.
    full_at: Instant,
}

impl Throttle {
    fn new(qps: f32, burst: usize) -> Self {
        let per_token = Duration::try_from_secs_f32(1.0 / qps).unwrap_or(Duration::ZERO);
        let burst = u32::try_from(burst).unwrap_or(u32::MAX).max(1);
        Self { per_token, burst, full_at: Instant::now() }
    }

    /// Takes a token, and says when it is there: `now`, or later if the bucket is empty.
    fn take(&mut self, now: Instant) -> Instant {
        self.full_at = self.full_at.max(now) + self.per_token;
        let debt = self.per_token.saturating_mul(self.burst);
        self.full_at.checked_sub(debt).map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::server::audit::testing::event;

    #[derive(Debug, Default)]
    struct Sizes(Mutex<Vec<usize>>);

    #[async_trait]
    impl AuditSink for Sizes {
        async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
            self.0.lock().push(events.len());
            Ok(())
        }
    }

    fn config() -> BatchConfig {
        BatchConfig { max_batch_size: 3, throttle: None, ..BatchConfig::for_webhook() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_sent_when_it_is_full_or_old_enough() {
        let sizes = Arc::new(Sizes::default());
        let batching = Batching::start(sizes.clone(), config());
        for _ in 0..4 {
            batching.process(&[event("/a")]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(*sizes.0.lock(), [3]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(*sizes.0.lock(), [3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_sends_what_waits() {
        let sizes = Arc::new(Sizes::default());
        let batching = Batching::start(sizes.clone(), config());
        batching.process(&[event("/a"), event("/b")]).await.unwrap();
        batching.flush().await;
        assert_eq!(*sizes.0.lock(), [2]);
    }

    #[test]
    fn batches_are_throttled_after_a_burst() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut throttle = Throttle { full_at: start, ..Throttle::new(4.0, 2) };
        let mut take = |millis: u64| (throttle.take(at(millis)) - start).as_millis();
        assert_eq!([take(0), take(0), take(0), take(0)], [0, 0, 250, 500]);
        // Half a second later the bucket owes one token, and much later it is full again.
        assert_eq!([take(750), take(750)], [750, 1000]);
        assert_eq!([take(9000), take(9000), take(9000)], [9000, 9000, 9250]);
    }
}
