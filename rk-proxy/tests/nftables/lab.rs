//! Four network namespaces: a client outside, a node, and two servers behind it.
//!
//! ```text
//! client 192.0.2.2 --- 192.0.2.1 node 10.244.0.1 --- 10.244.0.2 server 0
//!                                     10.244.1.1 --- 10.244.1.2 server 1
//! ```

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rk_net::netns;
use rk_proxy::{
    NodeView, ServiceProxy,
    conformance::{Answer, Origin, World},
    nftables::{NftablesConfig, NftablesProxy},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const SERVER_PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_millis(1500);

pub struct Lab {
    directory: tempfile::TempDir,
    pub config: NftablesConfig,
    pub any_node_address: bool,
}

impl Lab {
    /// A lab, or why there is none.
    pub async fn new() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let config =
            NftablesConfig { netns: Some(directory.path().join("node")), ..Default::default() };
        let lab = Self { directory, config, any_node_address: false };
        for host in ["client", "node", "server0", "server1"] {
            netns::create(&lab.host(host)).map_err(|e| format!("no network namespaces: {e}"))?;
        }
        lab.run("node", "nft", &["list", "tables"], "")
            .await
            .map_err(|e| format!("no nft: {e}"))?;
        lab.wire().await.map_err(|error| format!("cannot set up the network: {error}"))?;
        for server in 0..2 {
            let path = Some(lab.host(&format!("server{server}")));
            let listener = netns::listen(path, lab.servers()[server]).await;
            let listener = listener.map_err(|error| format!("cannot listen: {error}"))?;
            tokio::spawn(serve(listener));
        }
        Ok(lab)
    }

    fn host(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn wire(&self) -> io::Result<()> {
        self.link("client", "192.0.2.2", "192.0.2.1").await?;
        self.link("server0", "10.244.0.2", "10.244.0.1").await?;
        self.link("server1", "10.244.1.2", "10.244.1.1").await?;
        // Service addresses are routed somewhere on every node; here, to the outside.
        self.ip("node", "route add default via 192.0.2.2").await?;
        self.ip("node", "link set lo up").await?;
        let node = self.host("node");
        netns::run(Some(&node), || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            // Refusals are ICMP messages: without this only a few a second are sent.
            std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")
        })
    }

    async fn link(&self, host: &str, address: &str, gateway: &str) -> io::Result<()> {
        let peer = self.host(host);
        let peer = peer.display();
        self.ip("node", &format!("link add {host} type veth peer name eth0 netns {peer}")).await?;
        self.ip("node", &format!("address add {gateway}/24 dev {host}")).await?;
        self.ip("node", &format!("link set {host} up")).await?;
        self.ip(host, &format!("address add {address}/24 dev eth0")).await?;
        self.ip(host, "link set eth0 up").await?;
        self.ip(host, "link set lo up").await?;
        self.ip(host, &format!("route add default via {gateway}")).await
    }

    async fn ip(&self, host: &str, arguments: &str) -> io::Result<()> {
        let arguments: Vec<_> = arguments.split(' ').collect();
        self.run(host, "ip", &arguments, "").await.map(drop)
    }

    /// Commands for `nft` on the node.
    pub async fn nft(&self, commands: &str) {
        self.run("node", "nft", &["-f", "-"], commands).await.expect("nft");
    }

    /// All tables of the node.
    pub async fn ruleset(&self) -> String {
        self.run("node", "nft", &["list", "ruleset"], "").await.expect("nft")
    }

    async fn run(
        &self,
        host: &str,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> io::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let Output { status, stdout, stderr } =
            netns::run_async(Some(self.host(host)), move || {
                let mut child = command.spawn()?;
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(input.as_bytes())?;
                }
                child.wait_with_output()
            })
            .await?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        Err(io::Error::other(String::from_utf8_lossy(&stderr).into_owned()))
    }

    /// The client's address.
    pub fn outside(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 2])
    }

    fn place(&self, origin: Origin) -> PathBuf {
        match origin {
            Origin::Outside => self.host("client"),
            Origin::Node => self.host("node"),
            Origin::Server(i) => self.host(&format!("server{i}")),
        }
    }

    /// A connection that must come about.
    pub async fn connect(&self, from: Origin, to: SocketAddr) -> TcpStream {
        netns::connect(Some(self.place(from)), to, TIMEOUT).await.expect("connected")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in ["client", "node", "server0", "server1"] {
            let _ = netns::delete(&self.host(host));
        }
    }
}

/// Answers each connection with a line "own address, client's address", then echoes.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, client)) = listener.accept().await {
        tokio::spawn(async move {
            let own = stream.local_addr()?;
            stream.write_all(format!("{own} {}\n", client.ip()).as_bytes()).await?;
            let (mut read, mut write) = stream.split();
            // The first line of a client that stays is swallowed together with the greeting.
            let mut first = [0; 4];
            if read.read_exact(&mut first).await.is_ok() {
                tokio::io::copy(&mut read, &mut write).await?;
            }
            io::Result::Ok(())
        });
    }
}

#[async_trait]
impl World for Lab {
    fn backend(&self) -> Arc<dyn ServiceProxy> {
        Arc::new(NftablesProxy::new(self.config.clone()))
    }

    fn node(&self) -> NodeView {
        let addresses = if self.any_node_address { vec![] } else { vec![self.node_address()] };
        NodeView { addresses, ..NodeView::new("node") }
    }

    fn node_address(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }

    fn servers(&self) -> [SocketAddr; 2] {
        [([10, 244, 0, 2], SERVER_PORT).into(), ([10, 244, 1, 2], SERVER_PORT).into()]
    }

    async fn request(&self, from: Origin, to: SocketAddr) -> Answer {
        let connected = netns::connect(Some(self.place(from)), to, TIMEOUT).await;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Answer::Refused;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Answer::Silence,
            Err(error) => panic!("{to} from {from:?}: {error}"),
        };
        let mut line = [0; 256];
        let length = tokio::time::timeout(TIMEOUT, stream.read(&mut line)).await;
        let length = length.expect("an answer in time").expect("an answer");
        let line = String::from_utf8_lossy(&line[..length]);
        let (by, client) = line.trim().split_once(' ').expect("two addresses");
        Answer::Served { by: by.parse().unwrap(), client: client.parse().unwrap() }
    }
}
