//! The members of an etcd cluster, of which one is used at a time.
//!
//! etcd's members are equals: each serves reads and passes writes to the leader. So a client needs
//! one that answers. Staying with it, instead of spreading requests, means that a member which hangs
//! disturbs only once; and that the watches, which follow the requests, see what these see.

use std::{future::Future, time::Duration};

use etcd_client::{
    Certificate, Client, ConnectOptions, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    error::{Failure, unavailable},
    keys::unlimited,
    options::{EtcdOptions, EtcdTls},
};
use crate::StoreError;

/// Pings of a connection, so that one to a member that hangs or has vanished ends. etcd closes
/// connections that ping more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// Pause when all members have been asked in vain.
const PAUSE: Duration = Duration::from_millis(200);

/// What a member answers, or why it does not.
pub(super) type Answer<Reply> = Result<Reply, etcd_client::Error>;

/// One member's services. Clones share its connection, which is made when it is first needed, and
/// again when it broke.
#[derive(Clone)]
pub(super) struct Member {
    pub kv: KvClient,
    pub lease: LeaseClient,
    pub watch: WatchClient,
}

pub(super) struct Pool {
    members: Vec<Member>,
    /// The member in use.
    active: watch::Sender<usize>,
    attempt_timeout: Duration,
    timeout: Duration,
}

/// Why a request was not answered, and the error for it.
pub(super) struct Refusal {
    pub failure: Failure,
    pub error: StoreError,
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Prepares the connections. Fails when the endpoints or certificates are not usable.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let mut members = Vec::new();
        for endpoint in &options.endpoints {
            let connect = connect_options(options, endpoint.starts_with("https://"));
            let client = Client::connect([endpoint], Some(connect)).await;
            let client = client.map_err(|error| StoreError::Unavailable {
                reason: format!("etcd at {endpoint}: {error}"),
            })?;
            members.push(Member {
                kv: unlimited(client.kv_client()),
                lease: client.lease_client(),
                watch: client.watch_client().max_decoding_message_size(usize::MAX),
            });
        }
        if members.is_empty() {
            return Err(StoreError::Unavailable { reason: "no etcd endpoints".to_owned() });
        }
        let (attempt_timeout, timeout) = (options.attempt_timeout, options.timeout);
        Ok(Self { members, active: watch::Sender::new(0), attempt_timeout, timeout })
    }

    /// The member in use.
    pub(super) fn active(&self) -> (usize, &Member) {
        let index = *self.active.borrow();
        (index, &self.members[index])
    }

    /// Goes on to the next member, unless somebody else has done so already.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        self.active.send_if_modified(|active| {
            let leave = *active == index && next != index;
            if leave {
                *active = next;
            }
            leave
        });
    }

    /// Tells of changes of the member in use.
    pub(super) fn follow(&self) -> watch::Receiver<usize> {
        self.active.subscribe()
    }

    /// How long all attempts at something may take together.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// One attempt, on the member in use. Who does not answer is left.
    pub(super) async fn attempt<Reply, Fut>(
        &self,
        call: impl FnOnce(Member) -> Fut,
    ) -> Result<Reply, Refusal>
    where
        Fut: Future<Output = Answer<Reply>>,
    {
        let (index, member) = self.active();
        let refusal = match timeout(self.attempt_timeout, call(member.clone())).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(error)) => Refusal { failure: Failure::of(&error), error: unavailable(&error) },
            Err(_) => Refusal {
                failure: Failure::Unanswered,
                error: StoreError::Unavailable {
                    reason: format!("etcd: no answer within {:?}", self.attempt_timeout),
                },
            },
        };
        if refusal.failure.is_passing() {
            tracing::debug!(member = index, error = %refusal.error, "leaving a member of etcd");
            self.leave(index);
        }
        Err(refusal)
    }

    /// Tries until a member answers or time is up. For what can be done twice.
    pub(super) async fn read<Reply, Fut>(
        &self,
        call: impl Fn(Member) -> Fut,
    ) -> Result<Reply, Refusal>
    where
        Fut: Future<Output = Answer<Reply>>,
    {
        self.repeat(call, Failure::is_passing).await
    }

    /// Tries until something was sent. For what must not be done twice.
    pub(super) async fn write<Reply, Fut>(
        &self,
        call: impl Fn(Member) -> Fut,
    ) -> Result<Reply, Refusal>
    where
        Fut: Future<Output = Answer<Reply>>,
    {
        self.repeat(call, |failure| failure == Failure::NotSent).await
    }

    async fn repeat<Reply, Fut>(
        &self,
        call: impl Fn(Member) -> Fut,
        again: impl Fn(Failure) -> bool,
    ) -> Result<Reply, Refusal>
    where
        Fut: Future<Output = Answer<Reply>>,
    {
        let deadline = self.deadline();
        for round in 1.. {
            match self.attempt(&call).await {
                Err(refusal) if again(refusal.failure) && Instant::now() < deadline => {
                    self.pause_after(round).await;
                }
                outcome => return outcome,
            }
        }
        // The range has no end.
        Err(Refusal {
            failure: Failure::Unanswered,
            error: StoreError::Unavailable { reason: "etcd: too many attempts".to_owned() },
        })
    }

    /// Once all members have been tried, there is no hurry.
    pub(super) async fn pause_after(&self, round: usize) {
        if round.is_multiple_of(self.members.len()) {
            sleep(PAUSE).await;
        }
    }
}

fn connect_options(options: &EtcdOptions, encrypted: bool) -> ConnectOptions {
    // A member that has lost its cluster must say so instead of being quiet.
    let connect = ConnectOptions::new()
        .with_require_leader(true)
        .with_connect_timeout(options.attempt_timeout)
        .with_keep_alive(PING_EVERY, PING_ANSWERED_WITHIN)
        .with_keep_alive_while_idle(true);
    if !encrypted {
        return connect;
    }
    connect.with_tls(options.tls.as_ref().map(tls).unwrap_or_default())
}

fn tls(tls: &EtcdTls) -> TlsOptions {
    let mut options = TlsOptions::new();
    if !tls.ca.is_empty() {
        options = options.ca_certificate(Certificate::from_pem(&tls.ca));
    }
    if let Some((certificate, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(certificate, key));
    }
    options
}
