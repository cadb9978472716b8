//! What is outside the cluster: host names.

use std::{collections::BTreeMap, io, path::PathBuf};

use async_trait::async_trait;
use tokio::{fs, sync::Mutex};

/// Where host names are published. Both calls may be repeated.
#[async_trait]
pub trait Names: Send + Sync + 'static {
    /// Lets a host name lead to an address.
    async fn publish(&self, host: &str, address: &str) -> io::Result<()>;

    /// Takes a host name back; one that is not published is fine.
    async fn withdraw(&self, host: &str) -> io::Result<()>;
}

/// A file in the form of `/etc/hosts`, which is this program's alone.
pub struct HostsFile {
    path: PathBuf,
    /// One change at a time.
    writing: Mutex<()>,
}

impl HostsFile {
    /// The file, which is made with the first name.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), writing: Mutex::new(()) }
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, String>) + Send,
    ) -> io::Result<()> {
        let _alone = self.writing.lock().await;
        let text = match fs::read_to_string(&self.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let mut names = parse(&text);
        change(&mut names);
        let lines = names.iter().map(|(host, address)| format!("{address} {host}\n"));
        // A reader sees the old names or the new ones, never half a file.
        let next = self.path.with_extension("next");
        fs::write(&next, lines.collect::<String>()).await?;
        fs::rename(&next, &self.path).await
    }
}

/// Addresses by host name.
fn parse(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(address, host)| (host.trim().to_owned(), address.to_owned())).collect()
}

#[async_trait]
impl Names for HostsFile {
    async fn publish(&self, host: &str, address: &str) -> io::Result<()> {
        self.change(|names| drop(names.insert(host.to_owned(), address.to_owned()))).await
    }

    async fn withdraw(&self, host: &str) -> io::Result<()> {
        self.change(|names| drop(names.remove(host))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hosts_file_has_each_name_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let names = HostsFile::new(&path);
        names.publish("b.example", "10.0.0.2").await.unwrap();
        names.publish("a.example", "10.0.0.1").await.unwrap();
        names.publish("b.example", "10.0.0.3").await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "10.0.0.1 a.example\n10.0.0.3 b.example\n");
        names.withdraw("b.example").await.unwrap();
        names.withdraw("b.example").await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "10.0.0.1 a.example\n");
    }
}
