use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{clock, rng};

/// Who elects what, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElectionConfig {
    /// The namespace of the Lease; `kube-system` by default.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// This candidate. By default the host's name and a UUID, as stock components have it.
    pub identity: String,
    /// How long others wait for a leader that no longer renews; 15 s.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up; 10 s.
    pub renew_deadline: Duration,
    /// Between two tries, with jitter of up to 1.2 times this when acquiring; 2 s.
    pub retry_period: Duration,
}

impl LeaderElectionConfig {
    /// The Lease `name` in kube-system with client-go's timings.
    pub fn new(name: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        let host = if host.is_empty() { "localhost" } else { host };
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: format!("{host}_{}", rng::uuid()),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// What is wrong with the timings.
    pub fn validate(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline".to_owned());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(JITTER) {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor".to_owned());
        }
        if self.lease_duration.as_secs() == 0 || self.retry_period.is_zero() {
            return Err("leaseDuration and retryPeriod must be greater than zero".to_owned());
        }
        Ok(())
    }
}

/// client-go's `JitterFactor`.
const JITTER: f64 = 1.2;

/// Makes sure that of several instances one is active, by a `coordination.k8s.io/v1` Lease. Stock
/// components and rk's may compete for the same Lease.
///
/// Whether another leader is gone is judged by this process's own clock, from when it saw the
/// Lease change: clocks of different machines need not agree.
#[derive(Debug)]
pub struct LeaderElector {
    leases: Api<Lease>,
    config: LeaderElectionConfig,
    /// The Lease as last seen, and when it was seen to change.
    observed: Option<(Lease, Instant)>,
}

impl LeaderElector {
    /// A candidate. The config should have passed [`LeaderElectionConfig::validate`].
    pub fn new(client: kube::Client, config: LeaderElectionConfig) -> Self {
        let leases = Api::namespaced(client, &config.namespace);
        Self { leases, config, observed: None }
    }

    /// Waits to become the leader, then runs `work` until it ends. Its token is cancelled when
    /// leadership is lost or `shutdown` is; leadership is given up only after `work` has ended.
    /// Returns `None` when `shutdown` came before leadership.
    pub async fn run<F, T>(
        mut self,
        shutdown: CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let name = self.config.name.clone();
        shutdown.run_until_cancelled(self.acquire()).await?;
        tracing::info!(lease = %name, identity = %self.config.identity, "became the leader");

        let token = shutdown.child_token();
        let mut work = std::pin::pin!(work(token.clone()));
        let output = tokio::select! {
            biased;
            output = &mut work => output,
            () = self.renew() => {
                tracing::error!(lease = %name, "lost the leadership");
                token.cancel();
                return Some(work.await);
            }
        };
        self.release().await;
        Some(output)
    }

    /// Returns once this is the leader.
    async fn acquire(&mut self) {
        loop {
            // A server that does not answer must not stop the tries for ever.
            let deadline = self.config.renew_deadline;
            match tokio::time::timeout(deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.config.name, %error, "could not try the lease");
                }
                Err(_) => tracing::warn!(lease = %self.config.name, "no answer about the lease"),
            }
            tokio::time::sleep(rng::jitter(self.config.retry_period, JITTER)).await;
        }
    }

    /// Renews until that fails for the renew deadline.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep_until(
                (Instant::now() + self.config.retry_period)
                    .min(renewed + self.config.renew_deadline),
            )
            .await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.config.name, %error, "could not renew the lease");
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline && renewed + self.config.renew_deadline <= Instant::now()
            {
                return;
            }
        }
    }

    /// One try: whether this is the leader now. A conflict is an error; the next try reads anew.
    async fn try_acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        let found = match self.leases.get_opt(&self.config.name).await? {
            Some(lease) => lease,
            None => {
                let lease = self.claim(None);
                let created = self.leases.create(&PostParams::default(), &lease).await?;
                self.observed = Some((created, Instant::now()));
                return Ok(true);
            }
        };

        let spec = |lease: &Lease| lease.spec.clone();
        if self.observed.as_ref().is_none_or(|(seen, _)| spec(seen) != spec(&found)) {
            self.observed = Some((found.clone(), Instant::now()));
        }
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let holder = holder.unwrap_or_default();
        let valid = self.observed.as_ref().is_some_and(|(seen, at)| {
            let duration = seen.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let duration = Duration::from_secs(duration.unwrap_or_default().max(0) as u64);
            at.elapsed() < duration
        });
        if !holder.is_empty() && holder != self.config.identity && valid {
            return Ok(false);
        }

        let lease = self.claim(Some(&found));
        let stored = self.leases.replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.observed = Some((stored, Instant::now()));
        Ok(true)
    }

    /// The Lease with this candidate as its holder.
    fn claim(&self, found: Option<&Lease>) -> Lease {
        let now = clock::now_micros();
        let mut lease = found.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        });
        let old = lease.spec.take().unwrap_or_default();
        let held = old.holder_identity.as_deref() == Some(&self.config.identity);
        let transitions = old.lease_transitions.unwrap_or(0);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(self.config.lease_duration.as_secs() as i32),
            acquire_time: if held { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(match found {
                Some(_) if !held => transitions.saturating_add(1),
                _ => transitions,
            }),
            preferred_holder: old.preferred_holder,
            strategy: old.strategy,
        });
        lease
    }

    /// Gives the Lease up, so that another candidate need not wait for it to run out.
    async fn release(&mut self) {
        let Some((mut lease, _)) = self.observed.take() else { return };
        let now = clock::now_micros();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.acquire_time = Some(now.clone());
            spec.renew_time = Some(now);
        }
        let params = PostParams::default();
        let replace = self.leases.replace(&self.config.name, &params, &lease);
        match tokio::time::timeout(self.config.retry_period, replace).await {
            Ok(Ok(_)) => tracing::info!(lease = %self.config.name, "gave up the leadership"),
            Ok(Err(error)) => {
                tracing::warn!(lease = %self.config.name, %error, "could not release the lease");
            }
            Err(_) => {
                tracing::warn!(lease = %self.config.name, "no answer to releasing the lease");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;
    use crate::client::fake::{self, Call, Reply, status};

    /// A server with one Lease that checks versions; `None` in `up` makes it silent.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<(Option<Value>, u64, bool)>>);

    impl Server {
        fn client(&self) -> kube::Client {
            let server = self.clone();
            fake::client(move |call| server.answer(call))
        }

        fn answer(&self, call: Call) -> Option<Reply> {
            let (lease, version, silent) = &mut *self.0.lock();
            if *silent {
                return None;
            }
            let mut body = call.body;
            match call.method {
                Method::GET => {
                    return Some(match lease {
                        Some(lease) => Reply::Json(200, lease.clone()),
                        None => status(404, "NotFound"),
                    });
                }
                Method::POST if lease.is_some() => return Some(status(409, "AlreadyExists")),
                Method::PUT => {
                    let current = lease.as_ref().map(|l| &l["metadata"]["resourceVersion"]);
                    if Some(&body["metadata"]["resourceVersion"]) != current {
                        return Some(status(409, "Conflict"));
                    }
                }
                _ => {}
            }
            *version += 1;
            body["metadata"]["resourceVersion"] = version.to_string().into();
            *lease = Some(body.clone());
            Some(Reply::Json(200, body))
        }

        fn holder(&self) -> String {
            let state = self.0.lock();
            state.0.as_ref().unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
        }
    }

    fn candidate(server: &Server, identity: &str) -> LeaderElector {
        let config = LeaderElectionConfig {
            identity: identity.to_owned(),
            ..LeaderElectionConfig::new("test")
        };
        config.validate().unwrap();
        LeaderElector::new(server.client(), config)
    }

    /// Runs a candidate that works until it is told to stop.
    fn run(
        server: &Server,
        identity: &str,
        shutdown: &CancellationToken,
    ) -> tokio::task::JoinHandle<Option<()>> {
        let work = |token: CancellationToken| async move { token.cancelled().await };
        tokio::spawn(candidate(server, identity).run(shutdown.clone(), work))
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_candidate_takes_over_at_once_after_a_release() {
        let server = Server::default();
        let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());
        let first = run(&server, "first", &first_stop);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let second = run(&server, "second", &second_stop);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(server.holder(), "first", "it renews");

        first_stop.cancel();
        assert_eq!(first.await.unwrap(), Some(()));
        assert_eq!(server.holder(), "");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(server.holder(), "second");

        second_stop.cancel();
        second.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_leaders_lease_runs_out() {
        let server = Server::default();
        let first = run(&server, "first", &CancellationToken::new());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stop = CancellationToken::new();
        let second = run(&server, "second", &stop);
        tokio::time::sleep(Duration::from_secs(5)).await;
        first.abort();

        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(server.holder(), "first");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(server.holder(), "second");
        let transitions = server.0.lock().0.as_ref().unwrap()["spec"]["leaseTransitions"].clone();
        assert_eq!(transitions, 1);

        stop.cancel();
        second.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_its_lease_runs_out() {
        let server = Server::default();
        let leader = run(&server, "first", &CancellationToken::new());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        server.0.lock().2 = true;

        assert_eq!(leader.await.unwrap(), Some(()));

        let waited = start.elapsed();
        assert!((8..=10).contains(&waited.as_secs()), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_was_replaced_stops() {
        let server = Server::default();
        let leader = run(&server, "first", &CancellationToken::new());
        tokio::time::sleep(Duration::from_secs(3)).await;
        {
            let mut state = server.0.lock();
            let lease = state.0.as_mut().unwrap();
            lease["spec"]["holderIdentity"] = "thief".into();
            lease["metadata"]["resourceVersion"] = "99".into();
        }

        assert_eq!(leader.await.unwrap(), Some(()));
        assert_eq!(server.holder(), "thief");
    }
}
