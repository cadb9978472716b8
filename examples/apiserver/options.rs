//! What the flags mean: plain data, checked, with no file read yet.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use rk::api::server::{
    TlsVersion,
    audit::{AuditLog, AuditMode, LogFormat},
    authn::{OidcConfig, RequestHeaders},
};

use crate::{
    files::{File, Pair, address, file, pair},
    flags::Given,
};

/// What the server is to be.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) store: Store,
    pub(crate) event_ttl: Duration,
    pub(crate) shutdown_delay: Duration,
    pub(crate) bind: IpAddr,
    pub(crate) port: u16,
    /// `None` for the bind address, or the machine's when that is every address.
    pub(crate) advertise: Option<IpAddr>,
    pub(crate) among_endpoints: bool,
    pub(crate) host_name: Option<String>,
    /// Certificate and key.
    pub(crate) tls: Option<Pair>,
    pub(crate) tls_version: TlsVersion,
    pub(crate) cert_dir: PathBuf,
    pub(crate) client_ca: Option<File>,
    pub(crate) tokens: Option<File>,
    pub(crate) bootstrap_tokens: bool,
    pub(crate) anonymous: bool,
    pub(crate) oidc: Option<(OidcConfig, Option<File>)>,
    pub(crate) token_webhook: Option<File>,
    pub(crate) proxies: Option<(File, RequestHeaders)>,
    pub(crate) accounts: Accounts,
    pub(crate) modes: Vec<Mode>,
    pub(crate) enabled_plugins: Vec<String>,
    pub(crate) disabled_plugins: Vec<String>,
    pub(crate) plugin_config: Option<File>,
    pub(crate) service_range: String,
    pub(crate) node_ports: RangeInclusive<u16>,
    pub(crate) privileged: bool,
    pub(crate) kubelets: Option<Kubelets>,
    pub(crate) aggregator: Option<Pair>,
    pub(crate) route_to_endpoints: bool,
    pub(crate) audit: Audit,
    pub(crate) fairness: bool,
    pub(crate) in_flight: (u32, u32),
    pub(crate) versions: Versions,
}

/// Where objects are kept.
#[derive(Debug)]
pub(crate) enum Store {
    Directory(PathBuf),
    Etcd(Etcd),
}

#[derive(Debug)]
pub(crate) struct Etcd {
    pub(crate) servers: Vec<String>,
    pub(crate) ca: Option<File>,
    pub(crate) identity: Option<Pair>,
    pub(crate) prefix: String,
    pub(crate) compact_every: Option<Duration>,
}

/// Tokens of service accounts.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// The first signs.
    pub(crate) issuers: Vec<String>,
    pub(crate) signing_key: Option<File>,
    pub(crate) keys: Vec<File>,
    pub(crate) jwks_uri: Option<String>,
    pub(crate) audiences: Vec<String>,
    /// How long a token lasts at most.
    pub(crate) longest: Option<Duration>,
    /// Whether the tokens in Pods outlast what was asked for.
    pub(crate) extends: bool,
}

/// Who decides what users may do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(File),
}

#[derive(Debug)]
pub(crate) struct Kubelets {
    pub(crate) identity: Pair,
    pub(crate) ca: Option<File>,
    pub(crate) addresses: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) policy: Option<File>,
    pub(crate) log: Option<AuditLog>,
    pub(crate) webhook: Option<(File, Option<AuditMode>, Option<Duration>)>,
}

/// Which versions of groups are served.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions(BTreeMap<String, bool>);

impl Versions {
    /// Whether kinds of this version are served: what is said of itself counts most.
    pub(crate) fn serves(&self, group: &str, version: &str) -> bool {
        let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let stage = match version {
            _ if version.contains("alpha") => "api/alpha",
            _ if version.contains("beta") => "api/beta",
            _ => "api/ga",
        };
        let said = [name.as_str(), stage, "api/all"].into_iter().find_map(|name| self.0.get(name));
        said.copied().unwrap_or(stage != "api/alpha")
    }
}

impl Options {
    /// What was given, with the defaults of what was not. An error names the flag.
    pub(crate) fn read(given: &Given) -> Result<Self, String> {
        given.check()?;
        check_fixed(given)?;
        Ok(Self {
            store: store(given)?,
            event_ttl: given.time("event-ttl").unwrap_or(Duration::from_secs(3600)),
            shutdown_delay: given.time("shutdown-delay-duration").unwrap_or_default(),
            bind: address(given, "bind-address")?.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            port: given.number("secure-port")?.unwrap_or(6443),
            advertise: address(given, "advertise-address")?,
            among_endpoints: match given.text("endpoint-reconciler-type") {
                None | Some("lease") => true,
                Some("none") => false,
                Some(other) => {
                    return Err(format!("--endpoint-reconciler-type={other}: use lease or none"));
                }
            },
            host_name: given.text("external-hostname").map(ToOwned::to_owned),
            tls: pair(given, "tls-cert-file", "tls-private-key-file")?,
            tls_version: match given.text("tls-min-version") {
                None | Some("VersionTLS10" | "VersionTLS11" | "VersionTLS12") => TlsVersion::Tls12,
                Some("VersionTLS13") => TlsVersion::Tls13,
                Some(other) => return Err(format!("--tls-min-version={other} is unknown")),
            },
            cert_dir: given.text("cert-dir").unwrap_or("/var/run/kubernetes").into(),
            client_ca: file(given, "client-ca-file"),
            tokens: file(given, "token-auth-file"),
            bootstrap_tokens: given.is("enable-bootstrap-token-auth", false),
            anonymous: given.is("anonymous-auth", true),
            oidc: oidc(given)?,
            token_webhook: file(given, "authentication-token-webhook-config-file"),
            proxies: file(given, "requestheader-client-ca-file")
                .map(|file| (file, request_headers(given))),
            accounts: accounts(given)?,
            modes: modes(given)?,
            enabled_plugins: given.list("enable-admission-plugins").to_vec(),
            disabled_plugins: given.list("disable-admission-plugins").to_vec(),
            plugin_config: file(given, "admission-control-config-file"),
            service_range: given.text("service-cluster-ip-range").unwrap_or("10.96.0.0/12").into(),
            node_ports: node_ports(given)?,
            privileged: given.is("allow-privileged", false),
            kubelets: pair(given, "kubelet-client-certificate", "kubelet-client-key")?.map(
                |identity| Kubelets {
                    identity,
                    ca: file(given, "kubelet-certificate-authority"),
                    addresses: given.list("kubelet-preferred-address-types").to_vec(),
                },
            ),
            aggregator: pair(given, "proxy-client-cert-file", "proxy-client-key-file")?,
            route_to_endpoints: given.is("enable-aggregator-routing", false),
            audit: audit(given)?,
            fairness: given.is("enable-priority-and-fairness", true),
            in_flight: (
                given.number("max-requests-inflight")?.unwrap_or(400),
                given.number("max-mutating-requests-inflight")?.unwrap_or(200),
            ),
            versions: versions(given)?,
        })
    }
}

/// Flags that have one possible value.
fn check_fixed(given: &Given) -> Result<(), String> {
    for (flag, only) in [("storage-backend", "etcd3"), ("storage-media-type", "application/json")] {
        if given.text(flag).is_some_and(|value| value != only) {
            return Err(format!("--{flag} must be {only}"));
        }
    }
    Ok(())
}

fn store(given: &Given) -> Result<Store, String> {
    let servers = given.list("etcd-servers");
    match (servers.is_empty(), given.text("data-dir")) {
        (false, None) => {}
        (true, Some(directory)) => return Ok(Store::Directory(directory.into())),
        (true, None) => return Err("--etcd-servers or --data-dir must be given".to_owned()),
        (false, Some(_)) => {
            return Err("--etcd-servers and --data-dir exclude each other".to_owned());
        }
    }
    if let Some(wrong) =
        servers.iter().find(|url| !url.starts_with("http://") && !url.starts_with("https://"))
    {
        return Err(format!("--etcd-servers: {wrong} is no URL of http or https"));
    }
    let prefix = given.text("etcd-prefix").unwrap_or("/registry").trim_matches('/');
    Ok(Store::Etcd(Etcd {
        servers: servers.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
        ca: file(given, "etcd-cafile"),
        identity: pair(given, "etcd-certfile", "etcd-keyfile")?,
        prefix: format!("/{prefix}"),
        compact_every: match given.time("etcd-compaction-interval") {
            None => Some(Duration::from_secs(300)),
            Some(every) => (!every.is_zero()).then_some(every),
        },
    }))
}

fn oidc(given: &Given) -> Result<Option<(OidcConfig, Option<File>)>, String> {
    let (issuer, client) = (given.text("oidc-issuer-url"), given.text("oidc-client-id"));
    let (issuer, client) = match (issuer, client) {
        (None, None) => return Ok(None),
        (Some(issuer), Some(client)) => (issuer, client),
        _ => return Err("--oidc-issuer-url and --oidc-client-id need each other".to_owned()),
    };
    let text = |flag| given.text(flag).unwrap_or_default().to_owned();
    let claims = given.list("oidc-required-claim").iter().map(|claim| {
        let (name, value) = claim
            .split_once('=')
            .ok_or_else(|| format!("--oidc-required-claim={claim} is not claim=value"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let config = OidcConfig {
        issuer_url: issuer.to_owned(),
        client_id: client.to_owned(),
        username_claim: text("oidc-username-claim"),
        username_prefix: given
            .text("oidc-username-prefix")
            .map(|prefix| if prefix == "-" { "" } else { prefix }.to_owned()),
        groups_claim: text("oidc-groups-claim"),
        groups_prefix: text("oidc-groups-prefix"),
        required_claims: claims.collect::<Result<_, String>>()?,
        ca_pem: None,
    };
    Ok(Some((config, file(given, "oidc-ca-file"))))
}

fn request_headers(given: &Given) -> RequestHeaders {
    let default = RequestHeaders::default();
    let or = |flag, default: Vec<String>| match given.list(flag) {
        [] => default,
        names => names.to_vec(),
    };
    RequestHeaders {
        allowed_names: or("requestheader-allowed-names", default.allowed_names),
        user_headers: or("requestheader-username-headers", default.user_headers),
        group_headers: or("requestheader-group-headers", default.group_headers),
        uid_headers: or("requestheader-uid-headers", default.uid_headers),
        extra_prefixes: or("requestheader-extra-headers-prefix", default.extra_prefixes),
    }
}

fn accounts(given: &Given) -> Result<Accounts, String> {
    let flag = "service-account-key-file";
    let keys = given.list(flag).iter().map(|path| File { flag, path: path.into() }).collect();
    let accounts = Accounts {
        issuers: given.list("service-account-issuer").to_vec(),
        signing_key: file(given, "service-account-signing-key-file"),
        keys,
        jwks_uri: given.text("service-account-jwks-uri").map(ToOwned::to_owned),
        audiences: given.list("api-audiences").to_vec(),
        longest: given.time("service-account-max-token-expiration").filter(|it| !it.is_zero()),
        extends: given.is("service-account-extend-token-expiration", true),
    };
    let possible = Duration::from_secs(3600)..=Duration::from_secs(1 << 32);
    if accounts.longest.is_some_and(|longest| !possible.contains(&longest)) {
        return Err("the service-account-max-token-expiration must be between 1 hour and 2^32 \
                    seconds"
            .to_owned());
    }
    if accounts.signing_key.is_none() && !accounts.keys.is_empty() {
        return Err("--service-account-signing-key-file is a required flag".to_owned());
    }
    Ok(accounts)
}

fn modes(given: &Given) -> Result<Vec<Mode>, String> {
    let named = given.list("authorization-mode");
    let mut modes = Vec::new();
    for name in named {
        let mode = match name.as_str() {
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            "Webhook" => match file(given, "authorization-webhook-config-file") {
                Some(file) => Mode::Webhook(file),
                None => {
                    let why = "needs --authorization-webhook-config-file";
                    return Err(format!("--authorization-mode=Webhook {why}"));
                }
            },
            other => {
                return Err(format!("--authorization-mode={other} is not a mode that there is"));
            }
        };
        if modes.contains(&mode) {
            return Err(format!("--authorization-mode has {name} twice"));
        }
        modes.push(mode);
    }
    if modes.is_empty() {
        modes.push(Mode::AlwaysAllow);
    }
    Ok(modes)
}

fn node_ports(given: &Given) -> Result<RangeInclusive<u16>, String> {
    let Some(text) = given.text("service-node-port-range") else { return Ok(30000..=32767) };
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (0 < first && first <= last).then_some(first..=last)
    });
    range.ok_or_else(|| format!("--service-node-port-range={text} is not first-last"))
}

fn audit(given: &Given) -> Result<Audit, String> {
    let log = match given.text("audit-log-path") {
        None => None,
        Some(path) => {
            let mut log = AuditLog::new(path);
            // Files are kept without bounds unless these are given, as in kube-apiserver.
            log.max_age_days = given.number("audit-log-maxage")?.unwrap_or(log.max_age_days);
            log.max_backups = given.number("audit-log-maxbackup")?.unwrap_or(log.max_backups);
            log.max_size_mb = given.number("audit-log-maxsize")?.unwrap_or(log.max_size_mb);
            log.compress = given.is("audit-log-compress", log.compress);
            log.mode = audit_mode(given, "audit-log-mode")?.unwrap_or(log.mode);
            log.format = match given.text("audit-log-format") {
                None | Some("json") => LogFormat::Json,
                Some("legacy") => LogFormat::Legacy,
                Some(other) => {
                    return Err(format!("--audit-log-format={other}: use json or legacy"));
                }
            };
            Some(log)
        }
    };
    let webhook = match file(given, "audit-webhook-config-file") {
        None => None,
        Some(file) => {
            let mode = audit_mode(given, "audit-webhook-mode")?;
            Some((file, mode, given.time("audit-webhook-initial-backoff")))
        }
    };
    Ok(Audit { policy: file(given, "audit-policy-file"), log, webhook })
}

fn audit_mode(given: &Given, flag: &str) -> Result<Option<AuditMode>, String> {
    match given.text(flag) {
        None => Ok(None),
        Some("batch") => Ok(Some(AuditMode::Batch)),
        Some("blocking") => Ok(Some(AuditMode::Blocking)),
        Some("blocking-strict") => Ok(Some(AuditMode::BlockingStrict)),
        Some(other) => Err(format!("--{flag}={other}: use batch, blocking or blocking-strict")),
    }
}

fn versions(given: &Given) -> Result<Versions, String> {
    let mut versions = BTreeMap::new();
    for text in given.list("runtime-config") {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let value = match value {
            "true" => true,
            "false" => false,
            _ => return Err(format!("--runtime-config={text} is not group/version=true or false")),
        };
        versions.insert(name.to_owned(), value);
    }
    Ok(Versions(versions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::options_of;

    fn read(arguments: &str) -> Result<Options, String> {
        options_of(arguments, Options::read)
    }

    #[track_caller]
    fn refused(arguments: &str, part: &str) {
        let error = read(&format!("--data-dir=/d {arguments}")).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn defaults_are_those_of_kube_apiserver() {
        let options = read("--etcd-servers=https://a:2379/").unwrap();
        assert_eq!((options.port, options.node_ports.clone()), (6443, 30000..=32767));
        assert_eq!(options.service_range, "10.96.0.0/12");
        assert_eq!(options.modes, [Mode::AlwaysAllow]);
        assert!(options.anonymous && !options.privileged && !options.bootstrap_tokens);
        let Store::Etcd(etcd) = options.store else { panic!("it is etcd") };
        assert_eq!(
            (etcd.servers, etcd.prefix.as_str()),
            (vec!["https://a:2379".into()], "/registry")
        );
        assert_eq!(etcd.compact_every, Some(Duration::from_secs(300)));
    }

    #[test]
    fn what_may_have_commas_in_it_is_given_one_by_one() {
        let given =
            |flags: &str| options_of(flags, |given| Ok(given.list("tls-sni-cert-key").to_vec()));
        let keys = given("--tls-sni-cert-key=a.pem,a.key:x,y --tls-sni-cert-key b.pem,b.key");
        assert_eq!(keys.unwrap(), ["a.pem,a.key:x,y", "b.pem,b.key"]);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let error = read("--secure-port=1").unwrap_err();
        assert!(error.contains("--etcd-servers"), "{error}");
        refused("--etcd-servers=http://a", "exclude each other");
        refused("--tls-cert-file=/a", "--tls-cert-file needs --tls-private-key-file");
        refused("--authorization-mode=Webhook", "--authorization-webhook-config-file");
        refused("--authorization-mode=Magic", "Magic");
        refused("--authorization-mode=RBAC,RBAC", "twice");
        refused("--service-node-port-range=9-1", "--service-node-port-range");
        refused("--bind-address=here", "--bind-address=here is no IP address");
        refused("--oidc-client-id=x", "--oidc-issuer-url");
        refused("--service-account-key-file=/k", "--service-account-signing-key-file");
        refused("--storage-media-type=application/vnd.kubernetes.protobuf", "application/json");
        refused("--encryption-provider-config=/x", "--encryption-provider-config is not possible");
        refused("--runtime-config=batch/v1beta1=maybe", "--runtime-config");
        refused("--secure-port=70000", "--secure-port");
    }

    #[test]
    fn authorizers_are_asked_in_the_order_given() {
        let options = read("--data-dir=/d --authorization-mode=RBAC,Node").unwrap();
        assert_eq!(options.modes, [Mode::Rbac, Mode::Node]);
    }

    #[test]
    fn versions_are_switched_by_name_and_by_stage() {
        let text = "--data-dir=/d --runtime-config=api/beta=false,batch/v1beta1=true,apps/v1=false";
        let versions = read(text).unwrap().versions;
        let served = |group, version| versions.serves(group, version);
        assert!(served("batch", "v1beta1") && served("", "v1") && served("batch", "v1"));
        assert!(!served("policy", "v1beta1") && !served("apps", "v1"));
    }
}
