//! How fast a client may ask: client-go's token bucket.

use std::{sync::Arc, time::Duration};

use rk::kube::{Client, client::Body};
use tokio::{sync::Mutex, time::Instant};

/// Requests a second in the long run, and how many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limit {
    pub(crate) per_second: f64,
    pub(crate) burst: u32,
}

/// A client whose requests wait until they are within the limit, in the order in which they come.
pub(crate) fn limited(client: Client, limit: Limit) -> Client {
    let namespace = client.default_namespace().to_owned();
    let bucket = Arc::new(Mutex::new(Bucket::new(limit, Instant::now())));
    let send = move |request: http::Request<Body>| {
        let (client, bucket) = (client.clone(), bucket.clone());
        async move {
            // Held while waiting: who comes later waits for those before.
            let mut bucket = bucket.lock().await;
            tokio::time::sleep(bucket.take(Instant::now())).await;
            drop(bucket);
            client.send(request).await
        }
    };
    Client::new(tower::service_fn(send), namespace)
}

/// Tokens, one for each request.
struct Bucket {
    limit: Limit,
    tokens: f64,
    counted: Instant,
}

impl Bucket {
    fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, tokens: f64::from(limit.burst), counted: now }
    }

    /// Takes a token, and says how long to wait for it.
    fn take(&mut self, now: Instant) -> Duration {
        let earned = now.duration_since(self.counted).as_secs_f64() * self.limit.per_second;
        self.tokens = (self.tokens + earned).min(f64::from(self.limit.burst)) - 1.0;
        self.counted = now;
        let lacking = (-self.tokens).max(0.0) / self.limit.per_second;
        Duration::try_from_secs_f64(lacking).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_comes_at_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Limit { per_second: 2.0, burst: 3 }, start);
        let waits: Vec<_> = (0..5).map(|_| bucket.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 500, 1000]);
        let mut bucket = Bucket::new(Limit { per_second: 2.0, burst: 3 }, start);
        bucket.take(start);
        let later = start + Duration::from_secs(3600);
        let waits: Vec<_> = (0..4).map(|_| bucket.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 500], "what is not used is not saved up");
    }
}
