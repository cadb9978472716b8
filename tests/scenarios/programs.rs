//! The `apiserver` example as a process, with a folder of certificates, on loopback.

use std::{
    fs::File,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rk::{
    api::server::pki::{Credentials, Pki},
    controllers::{CertificateRequest, CertificateSigner, Manager},
    cri::{
        agent::{Agent, AgentBuilder, KubeletApi},
        sim::SimRuntime,
    },
    kube,
};
use tokio_util::sync::CancellationToken;

pub(crate) use crate::example::example;
use crate::{
    etcd::{free_ports, write_identity},
    harness::Shell,
};

/// The built API server.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("apiserver"))
}

/// An API server, gone with its value.
pub(crate) struct Server {
    process: Child,
    /// Where it listens.
    pub(crate) url: String,
}

/// A folder with certificates of one authority: `ca.pem`, `ca-key.pem`, `apiserver.pem` and its key,
/// `admin.pem` and its key, and a token file.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) pki: Pki,
}

const TOKENS: &str = "admin-token,admin,1,\"system:masters\"\n\
                      bootstrap-token,kubelet-bootstrap,10001,\"system:node-bootstrapper\"\n";

impl Folder {
    pub(crate) fn new(t: &Shell) -> Self {
        let path = t.directory().join("ssl");
        std::fs::create_dir_all(&path).expect("the test's folder takes folders");
        let pki = Pki::load_or_create(&path).expect("certificates can be made");
        std::fs::rename(path.join("ca.crt"), path.join("ca.pem")).expect("it was just made");
        std::fs::rename(path.join("ca.key"), path.join("ca-key.pem")).expect("it was just made");
        let names = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "10.0.0.1"].map(ToOwned::to_owned);
        // Not the authority's name, which would make it look self-signed.
        let server = pki.server("kube-apiserver", &names).expect("names are fine");
        write_identity(&path, "apiserver", &server);
        let admin = pki.client("kubernetes-admin", &["system:masters"]).expect("names are fine");
        write_identity(&path, "admin", &admin);
        std::fs::write(path.join("token.csv"), TOKENS).expect("it takes files");
        Self { path, pki }
    }

    pub(crate) fn file(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path.join(name).display())
    }

    /// The flags that every server here has.
    pub(crate) fn flags(&self) -> Vec<String> {
        vec![
            self.file("tls-cert-file", "apiserver.pem"),
            self.file("tls-private-key-file", "apiserver-key.pem"),
            self.file("client-ca-file", "ca.pem"),
            self.file("token-auth-file", "token.csv"),
            "--authorization-mode=RBAC,Node".to_owned(),
        ]
    }
}

/// The flags of a server whose store is a folder of its own.
pub(crate) fn embedded(t: &Shell, folder: &Folder, more: &[&str]) -> Vec<String> {
    let mut flags = folder.flags();
    flags.push(format!("--data-dir={}", t.directory().join("data").display()));
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    flags
}

/// Starts a server at an address, waits until it is ready, and makes kubectl talk to it.
pub(crate) fn serve(t: &Shell, folder: &Folder, address: &str, flags: &[String]) -> Server {
    let port = free_ports(address, 1)[0];
    let log = File::create(t.directory().join(format!("{address}.log"))).expect("it takes files");
    let process = Command::new(program())
        .args([format!("--bind-address={address}"), format!("--secure-port={port}")])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it was built");
    let mut server = Server { process, url: format!("https://{address}:{port}") };
    let begin = Instant::now();
    while TcpStream::connect((address, port)).is_err() {
        let log = || std::fs::read_to_string(t.directory().join(format!("{address}.log")));
        let ended = server.process.try_wait().expect("it is ours");
        assert!(ended.is_none(), "the server ended: {}", log().unwrap_or_default());
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", log().unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
    server.use_it(t, folder);
    t.eventually("kubectl get --raw /readyz", "ok");
    server
}

impl Server {
    /// Makes kubectl talk to it, as the administrator.
    pub(crate) fn use_it(&self, t: &Shell, folder: &Folder) {
        let admin = Credentials::Token("admin-token");
        let text = folder.pki.kubeconfig(&self.url, &admin).expect("it is well formed");
        t.write("kubeconfig", &text);
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A kubeconfig for it.
    pub(crate) fn kubeconfig(&self, folder: &Folder, who: &Credentials<'_>) -> String {
        folder.pki.kubeconfig(&self.url, who).expect("it is well formed")
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("there is kill").success());
        let begin = Instant::now();
        while self.process.try_wait().expect("it is ours").is_none() {
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `curl` with a token, for the status alone.
pub(crate) fn status(t: &Shell, server: &Server, more: &str) -> String {
    t.ok(&format!(
        "curl -s -o /dev/null -w '%{{http_code}}' --cacert ssl/ca.pem {more} {}/api",
        server.url
    ))
}

/// Components of this process that speak to a server as programs would: over TLS, with a kubeconfig.
/// They end with their value.
pub(crate) struct Components {
    runtime: tokio::runtime::Runtime,
    stop: CancellationToken,
}

impl Components {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("there are threads");
        Self { runtime, stop: CancellationToken::new() }
    }

    /// A client with a kubeconfig (YAML).
    pub(crate) fn client(&self, kubeconfig: &str) -> kube::Client {
        let config = kube::config::Kubeconfig::from_yaml(kubeconfig).expect("it is well formed");
        let options = kube::config::KubeConfigOptions::default();
        self.runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(config, &options).await;
            kube::Client::try_from(config.expect("it is complete")).expect("its TLS is usable")
        })
    }

    /// Goes on until these components end.
    pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        run: impl FnOnce(CancellationToken) -> F,
    ) {
        let _inside = self.runtime.enter();
        self.runtime.spawn(run(self.stop.clone()));
    }

    /// Runs controllers, which sign certificates with `pki`.
    pub(crate) fn controllers(&self, client: kube::Client, names: &str, pki: &Pki) {
        let _inside = self.runtime.enter();
        let manager = Manager::builder(client)
            .controllers(names)
            .certificate_signer(Arc::new(Issuer(pki.clone())))
            .build()
            .expect("the settings are in order");
        self.spawn(|stop| manager.run(stop));
    }

    /// A simulated node, for somebody to run.
    pub(crate) fn node(&self, client: kube::Client, name: &str) -> AgentBuilder {
        let _inside = self.runtime.enter();
        let runtime = SimRuntime::builder().build().expect("the default range is one");
        Agent::builder(client, Arc::new(runtime)).node_name(name)
    }

    /// Runs a node.
    pub(crate) fn agent(&self, node: AgentBuilder) {
        self.agent_with(node, |_| async {});
    }

    /// Runs a node, and whatever serves its API.
    pub(crate) fn agent_with<F: Future<Output = ()> + Send + 'static>(
        &self,
        node: AgentBuilder,
        serve: impl FnOnce(KubeletApi) -> F,
    ) {
        let _inside = self.runtime.enter();
        let agent = node.build().expect("it has a name");
        self.runtime.spawn(serve(agent.kubelet_api()));
        self.spawn(|stop| agent.run(stop));
    }
}

impl Drop for Components {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Signs with a test's authority.
#[derive(Debug)]
struct Issuer(Pki);

#[async_trait::async_trait]
impl CertificateSigner for Issuer {
    async fn sign(
        &self,
        request: &CertificateRequest,
    ) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.sign_request(&request.pem, &request.usages, request.lifetime)?)
    }
}
