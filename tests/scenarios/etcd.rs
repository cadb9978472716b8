//! An etcd cluster on loopback that speaks TLS, for the scenarios of the control plane.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rk::api::server::pki::{Identity, Pki};

/// A cluster, gone with its value.
pub(crate) struct Etcd {
    directory: PathBuf,
    members: Vec<Member>,
}

struct Member {
    arguments: Vec<String>,
    url: String,
    process: Option<Child>,
}

/// Ports of an address that nobody listens on, for now. They are below those that the kernel gives
/// to outgoing connections, so that none of the many at a time takes one meanwhile.
pub(crate) fn free_ports(address: &str, count: usize) -> Vec<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let of_this_process = u16::try_from(std::process::id() % 20 * 500).expect("it is below 10,000");
    std::iter::repeat_with(|| 20_000 + (of_this_process + TAKEN.fetch_add(1, Relaxed)) % 12_000)
        .filter(|port| TcpListener::bind((address, *port)).is_ok())
        .take(count)
        .collect()
}

/// Writes a certificate and its key as `<name>.pem` and `<name>-key.pem`.
pub(crate) fn write_identity(directory: &Path, name: &str, identity: &Identity) {
    let put = |name: String, text: &str| {
        std::fs::write(directory.join(name), text).expect("the test's folder takes files");
    };
    put(format!("{name}.pem"), &identity.certificate_pem);
    put(format!("{name}-key.pem"), &identity.key_pem);
}

impl Etcd {
    /// Starts members that take clients of `pki` only. Its certificates are in `directory`:
    /// `ca.pem`, and `server.pem` with its key, which clients show too.
    pub(crate) fn start(directory: &Path, members: usize, pki: &Pki) -> Self {
        std::fs::create_dir_all(directory).expect("the test's folder takes folders");
        std::fs::write(directory.join("ca.pem"), pki.ca_pem()).expect("it takes files");
        let server = pki.server("etcd", &["127.0.0.1".to_owned()]).expect("names are fine");
        write_identity(directory, "member", &server);
        let client = pki.client("apiserver-etcd-client", &[]).expect("names are fine");
        write_identity(directory, "server", &client);
        let mut etcd = Self { directory: directory.to_owned(), members: Vec::new() };
        let (clients, peers) = (free_ports("127.0.0.1", members), free_ports("127.0.0.1", members));
        let peer = |index: usize| format!("http://127.0.0.1:{}", peers[index]);
        let all: Vec<_> = (0..members).map(|index| format!("m{index}={}", peer(index))).collect();
        for (index, port) in clients.iter().enumerate() {
            let url = format!("https://127.0.0.1:{port}");
            let path = |name: &str| directory.join(name).display().to_string();
            let arguments = [
                ("--name", format!("m{index}")),
                ("--data-dir", path(&format!("m{index}"))),
                ("--listen-client-urls", url.clone()),
                ("--advertise-client-urls", url.clone()),
                ("--listen-peer-urls", peer(index)),
                ("--initial-advertise-peer-urls", peer(index)),
                ("--initial-cluster", all.join(",")),
                ("--cert-file", path("member.pem")),
                ("--key-file", path("member-key.pem")),
                ("--trusted-ca-file", path("ca.pem")),
            ];
            let mut arguments: Vec<_> =
                arguments.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
            arguments.push("--client-cert-auth".to_owned());
            etcd.members.push(Member { arguments, url, process: None });
        }
        (0..members).for_each(|index| etcd.run(index));
        etcd.ready();
        etcd
    }

    /// The members' URLs, as `--etcd-servers` takes them.
    pub(crate) fn servers(&self) -> String {
        self.members.iter().map(|member| member.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The port of the first member.
    pub(crate) fn port(&self) -> u16 {
        let port = self.members[0].url.rsplit(':').next().and_then(|port| port.parse().ok());
        port.expect("its URL has one")
    }

    /// A member's URL for other members.
    pub(crate) fn peer(&self, index: usize) -> &str {
        let flag = "--listen-peer-urls=";
        let mut arguments = self.members[index].arguments.iter();
        arguments.find_map(|argument| argument.strip_prefix(flag)).expect("each member has one")
    }

    /// The folder of its certificates and data.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The flags of a server that uses it.
    pub(crate) fn flags(&self) -> Vec<String> {
        let file = |flag: &str, name: &str| {
            format!("--etcd-{flag}={}", self.directory.join(name).display())
        };
        vec![
            format!("--etcd-servers={}", self.servers()),
            file("cafile", "ca.pem"),
            file("certfile", "server.pem"),
            file("keyfile", "server-key.pem"),
        ]
    }

    /// `etcdctl`, with its certificates and the first member.
    pub(crate) fn etcdctl(&self, arguments: &str) -> String {
        let d = self.directory.display();
        let url = &self.members[0].url;
        format!(
            "ETCDCTL_API=3 etcdctl --endpoints={url} --cacert={d}/ca.pem --cert={d}/server.pem \
             --key={d}/server-key.pem {arguments}"
        )
    }

    /// Ends a member at once.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().expect("it is ours");
            process.wait().expect("it is ours");
        }
    }

    /// Starts a member.
    pub(crate) fn run(&mut self, index: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("the test's folder takes files");
        let member = &mut self.members[index];
        let process = Command::new("etcd")
            .args(&member.arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd is installed");
        member.process = Some(process);
    }

    /// Waits until every running member listens.
    pub(crate) fn ready(&self) {
        let begin = Instant::now();
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let address = member.url.trim_start_matches("https://");
            while TcpStream::connect(address).is_err() {
                assert!(begin.elapsed() < Duration::from_secs(60), "etcd does not listen");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Ends all members and removes their data.
    pub(crate) fn destroy(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
            std::fs::remove_dir_all(self.directory.join(format!("m{index}"))).expect("it has data");
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}
