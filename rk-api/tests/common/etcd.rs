//! One etcd for all tests of a process, and a part of it for each.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rk_store::{EtcdOptions, EtcdStore, Keyspace, Store};

/// The shell that holds etcd. It ends etcd when its standard input ends, as it does with this
/// process, whatever ends that: nobody drops what is static.
struct Etcd {
    _shell: Child,
    _directory: tempfile::TempDir,
    url: String,
}

const HOLD: &str = r#"
etcd "$@" >/dev/null 2>&1 &
read -r _
kill -9 $!
rm -rf "$DIRECTORY"
"#;

impl Etcd {
    fn start() -> Self {
        // Below the ports that the kernel gives to outgoing connections, and others for each process.
        let first = 10_000 + u16::try_from(std::process::id() % 100 * 20).unwrap();
        let mut free = (first..).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let mut url = || format!("http://127.0.0.1:{}", free.next().unwrap());
        let (client, peer) = (url(), url());
        let directory = tempfile::tempdir().unwrap();
        let shell = Command::new("sh")
            .args(["-c", HOLD, "sh"])
            .arg(format!("--data-dir={}", directory.path().join("data").display()))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"])
            .env("DIRECTORY", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { _shell: shell, _directory: directory, url: client }
    }
}

/// A store on etcd with nothing in it; `None` when there is no etcd here.
pub async fn store() -> Option<Arc<dyn Store>> {
    static ETCD: OnceLock<Option<Etcd>> = OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let etcd = ETCD.get_or_init(|| {
        if Command::new("etcd").arg("--version").output().is_ok() {
            return Some(Etcd::start());
        }
        let required = std::env::var("RK_REQUIRE").is_ok_and(|value| value == "all");
        assert!(!required, "RK_REQUIRE=all, but etcd is not on the PATH");
        println!("SKIP on_etcd: etcd is not on the PATH");
        None
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let options = EtcdOptions {
        endpoints: vec![etcd.as_ref()?.url.clone()],
        keyspace: Keyspace::moved("/registry/", format!("/{number}/registry/")),
        compact_every: None,
        ..EtcdOptions::default()
    };
    Some(Arc::new(EtcdStore::open(options).await.unwrap()))
}
