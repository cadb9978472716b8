//! How an [`EtcdStore`](super::EtcdStore) is set up.

use std::time::Duration;

use super::Keyspace;

/// How an [`EtcdStore`](super::EtcdStore) is set up. Only `endpoints` has no useful default.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members' client URLs, `https://10.0.0.1:2379`. One is used as long as it answers, the
    /// others follow in this order.
    pub endpoints: Vec<String>,
    /// What `https` endpoints are spoken to with; the system's authorities and no client
    /// certificate when there is none.
    pub tls: Option<EtcdTls>,
    /// Where the store's keys are in etcd; as they are by default.
    pub keyspace: Keyspace,
    /// A member that takes longer than this to answer a request is given up for another. Default:
    /// 5 s.
    ///
    /// A write that was sent and not answered fails: it may or may not have happened.
    pub attempt_timeout: Duration,
    /// A read is tried anew, on all members in turn, for so long. Default: 20 s.
    pub timeout: Duration,
    /// How often history is forgotten: each time, what is older than the time before. `None` leaves
    /// it to somebody else. Default: 5 minutes, as kube-apiserver has it.
    ///
    /// Any number of stores and kube-apiservers on one etcd agree on who does it.
    pub compact_every: Option<Duration>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions {
            endpoints: Vec::new(),
            tls: None,
            keyspace: Keyspace::default(),
            attempt_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(20),
            compact_every: Some(Duration::from_secs(300)),
        }
    }
}

/// Certificates for the connection to etcd, in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authorities that the members' certificates are checked against; the system's when
    /// empty.
    pub ca: Vec<u8>,
    /// This client's certificate chain and private key, for members that ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The private key is nobody's business.
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}
