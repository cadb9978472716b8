//! An etcd cluster on loopback, in a temporary directory, gone with its value.

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rk_store::EtcdTls;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// No cluster takes longer than this to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Etcd {
    directory: TempDir,
    members: Vec<Member>,
    authority: Option<Authority>,
}

struct Member {
    arguments: Vec<String>,
    client: String,
    process: Option<Child>,
}

/// Who signs a cluster's certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A certificate for 127.0.0.1, and its key.
    pub fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Whether a program is there. If it must be and is not, that is a failure.
pub fn present(program: &str) -> bool {
    let found = Command::new(program).arg("--help").output().is_ok();
    if !found {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        assert!(std::env::var("RK_REQUIRE").as_deref() != Ok("all"), "{test} needs {program}");
        println!("SKIP {test}: {program} is not installed");
    }
    found
}

/// Ports that nobody listens on, for now. They are below those that the kernel gives to outgoing
/// connections, so that none of these takes one meanwhile.
fn free_ports(count: usize) -> Vec<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let of_this_process = u16::try_from(std::process::id() % 20 * 100).unwrap();
    std::iter::repeat_with(|| 12_000 + of_this_process + TAKEN.fetch_add(1, Relaxed) % 4_000)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(count)
        .collect()
}

impl Etcd {
    /// Starts a cluster and waits until it is ready; `None` where there is no etcd.
    pub async fn start(count: usize) -> Option<Self> {
        Self::start_with(count, None).await
    }

    /// A cluster that speaks TLS and asks clients for certificates of `authority`.
    pub async fn start_with(count: usize, authority: Option<Authority>) -> Option<Self> {
        if !present("etcd") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let etcd = Self {
            members: members(directory.path(), count, authority.as_ref()),
            directory,
            authority,
        };
        Some(etcd.run().await)
    }

    /// A cluster of one with the data that `directory` holds below `m0`.
    pub async fn restored(directory: TempDir) -> Self {
        let members = members(directory.path(), 1, None);
        Self { members, directory, authority: None }.run().await
    }

    async fn run(mut self) -> Self {
        for index in 0..self.members.len() {
            self.restart(index);
        }
        self.ready().await;
        self
    }

    /// Waits until every running member answers.
    pub async fn ready(&self) {
        let give_up = Instant::now() + READY_WITHIN;
        for member in &self.members {
            if member.process.is_none() {
                continue;
            }
            let address = member.client.split("//").nth(1).unwrap().to_owned();
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                assert!(Instant::now() < give_up, "etcd does not listen: {}", self.log());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    pub fn client_tls(&self) -> Option<EtcdTls> {
        self.authority.as_ref().map(|authority| tls(authority, authority))
    }

    /// Ends a member at once (SIGKILL).
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts a member that is not running.
    pub fn restart(&mut self, index: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let member = &mut self.members[index];
        let process = Command::new("etcd")
            .args(&member.arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        member.process = Some(process);
    }

    /// Stops a member where it is (SIGSTOP).
    pub fn pause(&self, index: usize) {
        self.signal(index, libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self, index: usize) {
        self.signal(index, libc::SIGCONT);
    }

    fn signal(&self, index: usize, signal: i32) {
        let process = self.members[index].process.as_ref().unwrap();
        // SAFETY: the process is a child that has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(process.id() as i32, signal) }, 0);
    }

    /// Runs `etcdctl` against the first member.
    pub fn etcdctl(&self, arguments: &[&str]) -> Output {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.members[0].client])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The end of what the members wrote.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}

/// A client's certificate of one authority, and trust in another.
pub fn tls(signed_by: &Authority, trusts: &Authority) -> EtcdTls {
    let (certificate, key) = signed_by.sign();
    EtcdTls { ca: trusts.certificate().into(), identity: Some((certificate.into(), key.into())) }
}

fn members(directory: &Path, count: usize, authority: Option<&Authority>) -> Vec<Member> {
    let scheme = if authority.is_some() { "https" } else { "http" };
    let ports = free_ports(2 * count);
    let (clients, peers) = ports.split_at(count);
    let peer = |index: usize| format!("http://127.0.0.1:{}", peers[index]);
    let cluster: Vec<_> = (0..count).map(|index| format!("m{index}={}", peer(index))).collect();
    let mut security = Vec::new();
    if let Some(authority) = authority {
        let (certificate, key) = authority.sign();
        for (flag, name, pem) in [
            ("--trusted-ca-file", "ca.pem", authority.certificate()),
            ("--cert-file", "server.pem", certificate),
            ("--key-file", "server-key.pem", key),
        ] {
            let path = directory.join(name);
            std::fs::write(&path, pem).unwrap();
            security.extend([flag.to_owned(), path.display().to_string()]);
        }
        security.push("--client-cert-auth".to_owned());
    }
    (0..count)
        .map(|index| {
            let client = format!("{scheme}://127.0.0.1:{}", clients[index]);
            let data = directory.join(format!("m{index}"));
            let mut arguments: Vec<String> = [
                ("--name", format!("m{index}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client.clone()),
                ("--listen-peer-urls", peer(index)),
                ("--initial-advertise-peer-urls", peer(index)),
                ("--initial-cluster", cluster.join(",")),
                // The largest value and what is around it.
                ("--max-request-bytes", (2 << 20).to_string()),
                ("--logger", "zap".to_owned()),
                ("--log-level", "warn".to_owned()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect();
            arguments.extend(security.clone());
            Member { arguments, client, process: None }
        })
        .collect()
}
