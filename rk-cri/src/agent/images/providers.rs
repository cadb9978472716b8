//! Programs that know credentials for registries (KEP-2133): what is asked of them, what they answer,
//! and how long that is good for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::{Instant, timeout},
};

use super::keyring::{Keyring, is_for};
use crate::{agent::configuration::GoDuration as Span, runtime::RegistryAuth};

/// How long a program may take, as in the kubelet.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The versions of a provider's messages that are spoken.
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// Programs that know credentials for images, as a file of the kind `CredentialProviderConfig` lists
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialProviderConfig {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: Span,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

impl CredentialProviderConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let versions = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("kubelet.config.k8s.io/{v}"));
        if config.kind != "CredentialProviderConfig" || !versions.contains(&config.api_version) {
            let (kind, version) = (&config.kind, &config.api_version);
            return Err(format!("{version} {kind} is no CredentialProviderConfig"));
        }
        if config.providers.is_empty() {
            return Err("providers: Required value: at least 1 item in plugins is required".into());
        }
        let mut names = std::collections::BTreeSet::new();
        for provider in &config.providers {
            provider.check()?;
            if !names.insert(&provider.name) {
                return Err(format!("providers.name: Duplicate value: {:?}", provider.name));
            }
        }
        Ok(config)
    }
}

impl Provider {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let bad = |what: &str, why: &str| Err(format!("providers[{name}].{what}: {why}"));
        if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
            return bad("name", "it has to be the name of a file");
        }
        if self.match_images.is_empty() {
            return bad("matchImages", "at least one image is needed");
        }
        if !VERSIONS.contains(&self.api_version.as_str()) {
            return bad("apiVersion", &format!("one of {} is needed", VERSIONS.join(", ")));
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: CacheKey,
    cache_duration: Option<Span>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

/// What an answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Debug, Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl CacheKey {
    /// Under what an answer about an image is kept.
    fn of(self, repository: &str) -> String {
        match self {
            Self::Image => repository.to_owned(),
            Self::Registry => repository.split('/').next().unwrap_or_default().to_owned(),
            Self::Global => String::new(),
        }
    }
}

/// The providers of a node, with what they answered.
#[derive(Debug, Default)]
pub(crate) struct Providers {
    list: Vec<Provider>,
    directory: PathBuf,
    /// By provider and key, until when.
    kept: Mutex<BTreeMap<(String, String), (Instant, Keyring)>>,
}

impl Providers {
    /// The providers of a configuration, whose programs are in `directory`.
    pub(crate) fn new(config: &CredentialProviderConfig, directory: &Path) -> Self {
        Self {
            list: config.providers.clone(),
            directory: directory.to_owned(),
            kept: Mutex::default(),
        }
    }

    /// What the providers know for an image. One that fails knows nothing, and is asked again the
    /// next time.
    pub(crate) async fn candidates(&self, repository: &str) -> Vec<RegistryAuth> {
        let mut found = Vec::new();
        for provider in &self.list {
            if !provider.match_images.iter().any(|pattern| is_for(pattern, repository)) {
                continue;
            }
            let keyring = match self.kept(&provider.name, repository) {
                Some(kept) => kept,
                None => match self.ask(provider, repository).await {
                    Ok(keyring) => keyring,
                    Err(why) => {
                        tracing::warn!(
                            provider = provider.name,
                            image = repository,
                            why,
                            "unable to get credentials of a provider"
                        );
                        continue;
                    }
                },
            };
            for auth in keyring.candidates(repository) {
                if !found.contains(&auth) {
                    found.push(auth);
                }
            }
        }
        found
    }

    fn kept(&self, provider: &str, repository: &str) -> Option<Keyring> {
        let mut kept = self.kept.lock();
        let now = Instant::now();
        kept.retain(|_, (until, _)| *until > now);
        let keys = [CacheKey::Image, CacheKey::Registry, CacheKey::Global];
        keys.into_iter().find_map(|key| {
            let key = (provider.to_owned(), key.of(repository));
            kept.get(&key).map(|(_, keyring)| keyring.clone())
        })
    }

    async fn ask(&self, provider: &Provider, repository: &str) -> Result<Keyring, String> {
        let request = Request {
            kind: "CredentialProviderRequest",
            api_version: &provider.api_version,
            image: repository,
        };
        let request = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        let program = self.directory.join(&provider.name);
        let answered = timeout(ANSWER_WITHIN, run(&program, provider, &request)).await;
        let answer = answered.map_err(|_| format!("no answer within {ANSWER_WITHIN:?}"))??;
        let response: Response =
            serde_json::from_slice(&answer).map_err(|error| format!("its answer: {error}"))?;
        if response.kind != "CredentialProviderResponse"
            || response.api_version != provider.api_version
        {
            return Err(format!("its answer is {} {}", response.api_version, response.kind));
        }
        let logins = response.auth.unwrap_or_default().into_iter().map(|(key, login)| {
            let auth = RegistryAuth {
                username: login.username,
                password: login.password,
                ..RegistryAuth::default()
            };
            (key, auth)
        });
        let keyring = Keyring::of_logins(logins);
        let good_for = response.cache_duration.unwrap_or(provider.default_cache_duration).0;
        if !good_for.is_zero() {
            let key = (provider.name.clone(), response.cache_key_type.of(repository));
            let until = Instant::now() + good_for;
            self.kept.lock().insert(key, (until, keyring.clone()));
        }
        Ok(keyring)
    }
}

/// Runs a provider to its end and returns what it prints. It is killed if nobody waits any more.
async fn run(program: &Path, provider: &Provider, request: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = Command::new(program)
        .args(&provider.args)
        .envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    let ask = async {
        if let Some(mut stdin) = stdin {
            // One that reads nothing may know all the same.
            let _ = stdin.write_all(request).await;
        }
    };
    let hear = async {
        if let Some(stdout) = stdout {
            let _ = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
        }
    };
    let complain = async {
        if let Some(stderr) = stderr {
            let _ = stderr.take(ANSWER_BYTES_MAX).read_to_end(&mut complaint).await;
        }
    };
    tokio::join!(ask, hear, complain);
    let status = child.wait().await.map_err(|error| error.to_string())?;
    match status.success() {
        true => Ok(answer),
        false => Err(format!("{status}: {}", String::from_utf8_lossy(&complaint).trim())),
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn config(cache: &str) -> CredentialProviderConfig {
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n\
             - name: teller\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  \
             matchImages: ['*.example.com', 'registry.io:5000/team']\n  \
             defaultCacheDuration: {cache}\n  args: ['--account', mine]\n  \
             env: [{{name: SECRET, value: open}}]\n"
        );
        CredentialProviderConfig::parse(&text).unwrap()
    }

    /// A program that counts its calls and answers with what it was asked and given.
    fn program(directory: &Path, key_type: &str) {
        let script = format!(
            "#!/bin/sh\nread -r request\necho \"$request\" >> {0}/calls\n\
             echo '{{\"kind\": \"CredentialProviderResponse\", \
             \"apiVersion\": \"credentialprovider.kubelet.k8s.io/v1\", \
             \"cacheKeyType\": \"{key_type}\", \
             \"auth\": {{\"*.example.com\": {{\"username\": \"'\"$2\"'\", \
             \"password\": \"'\"$SECRET\"'\"}}}}}}'\n",
            directory.display()
        );
        // Written elsewhere and moved: a program that is open for writing cannot be executed, not
        // even while another thread's fork holds the descriptor.
        let path = directory.join("teller");
        let status = std::process::Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                use std::io::Write;
                child.stdin.take().unwrap().write_all(script.as_bytes())?;
                child.wait()
            });
        assert!(status.unwrap().success());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111);
    }

    fn calls(directory: &Path) -> usize {
        fs::read_to_string(directory.join("calls")).unwrap_or_default().lines().count()
    }

    #[tokio::test]
    async fn a_program_is_asked_for_its_images_and_its_answer_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        program(directory.path(), "Registry");
        let providers = Providers::new(&config("10h"), directory.path());
        assert!(providers.candidates("docker.io/library/busybox").await.is_empty());
        assert_eq!(calls(directory.path()), 0, "it is not for that image");

        let found = providers.candidates("reg.example.com/app").await;
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].username, &*found[0].password), ("mine", "open"));
        let asked = fs::read_to_string(directory.path().join("calls")).unwrap();
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        assert_eq!(asked["image"], "reg.example.com/app");
        assert_eq!(asked["kind"], "CredentialProviderRequest");

        // The whole registry is known now, another one is not.
        assert_eq!(providers.candidates("reg.example.com/other").await, found);
        assert_eq!(calls(directory.path()), 1);
        assert_eq!(providers.candidates("two.example.com/app").await, found);
        assert_eq!(calls(directory.path()), 2);
    }

    #[tokio::test]
    async fn an_answer_without_a_time_is_asked_for_each_time_and_a_failure_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let providers = Providers::new(&config("0s"), directory.path());
        assert!(
            providers.candidates("reg.example.com/app").await.is_empty(),
            "there is no program"
        );
        program(directory.path(), "Image");
        for round in 1..3 {
            assert_eq!(providers.candidates("reg.example.com/app").await.len(), 1);
            assert_eq!(calls(directory.path()), round);
        }
        program(directory.path(), "Nothing");
        assert!(providers.candidates("reg.example.com/app").await.is_empty());
    }

    #[test]
    fn a_configuration_says_what_is_wrong_with_it() {
        let parse = |providers: &str| {
            CredentialProviderConfig::parse(&format!(
                "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n{providers}"
            ))
            .unwrap_err()
        };
        assert!(parse("providers: []").contains("at least 1 item"));
        let provider = |name: &str, version: &str| {
            parse(&format!(
                "providers: [{{name: '{name}', apiVersion: {version}, matchImages: [a], \
                 defaultCacheDuration: 1s}}]"
            ))
        };
        assert!(provider("../sh", VERSIONS[0]).contains("name of a file"));
        assert!(provider("a", "v9").contains("apiVersion"));
        assert!(CredentialProviderConfig::parse("kind: Pod").is_err());
    }
}
