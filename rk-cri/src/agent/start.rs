//! Starts and stops containers: image, settings, hooks.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        authentication::v1::{
            BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
        },
        core::v1::{Container, ImageVolumeSource, Pod, PodSpec, Service, ServiceAccount, Volume},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, api::PostParams};
use rk_api::{client::EventType, clock, volumes::claim_of};

use super::{
    claims, csi, env,
    handler::{self, Action, Place, Verdict, describe},
    hugepages,
    observed::Observed,
    references,
    spec::{
        check_non_root, container_config, full_name, hosts_file, hosts_file_of_node, pod_ref,
        seccomp,
    },
    static_pods::is_static,
    status::Waiting,
    stop::STOP_LEAST,
    sync::Memory,
    volumes,
    worker::Core,
};
use crate::runtime::{ContainerState, ContainerStatus, Mount};

/// After a mistake in a container's settings, until it is looked at again.
pub(super) const CONFIG_RETRY: Duration = Duration::from_secs(5);
/// How many containers of a name are kept: the newest and the one before.
const KEPT: usize = 2;

/// Why a container was not started.
pub(super) struct Refused {
    waiting: Waiting,
    /// Until it is tried again; `None` leaves that to the back-off of its restarts.
    pause: Option<Duration>,
}

pub(super) fn refused(
    reason: &str,
    message: impl Into<String>,
    pause: Option<Duration>,
) -> Refused {
    Refused { waiting: Waiting { reason: reason.into(), message: Some(message.into()) }, pause }
}

impl Core {
    /// Starts the next container of a name, or notes why not.
    pub(super) async fn start_container(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Container,
        memory: &mut Memory,
    ) {
        let observed = match self.observe(pod).await {
            Ok(observed) => observed,
            Err(_) => return,
        };
        // The sandbox may have gone meanwhile, or not have come.
        if observed.sandbox().is_none() {
            return;
        }
        let result = self.try_start(pod, container, &observed, memory).await;
        let name = &container.name;
        match result {
            Ok(()) => {
                memory.waiting.remove(name);
                memory.holds.remove(name);
            }
            Err(Refused { waiting, pause }) => {
                if let Some(pause) = pause {
                    memory.hold(name, pause, clock::now());
                }
                memory.waiting.insert(name.clone(), waiting);
            }
        }
        // With the new one there are at most two otherwise, which stay.
        if observed.attempts(name).len() >= KEPT {
            self.remove_old_attempts(name, pod).await;
        }
    }

    async fn try_start(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Container,
        observed: &Observed,
        memory: &mut Memory,
    ) -> Result<(), Refused> {
        let about = self.container_ref(pod, &container.name);
        let Some(sandbox) = observed.sandbox() else { return Ok(()) };
        let latest = observed.latest(&container.name);
        let image = self.ensure_image(pod, container, memory).await?;

        let fail = |reason: &str, why: String| {
            self.event(&about, EventType::Warning, "Failed", &format!("Error: {why}"));
            refused(reason, why, Some(CONFIG_RETRY))
        };
        let config_error = |why: String| fail("CreateContainerConfigError", why);
        if !self.runtime.simulated() {
            let known = self.runtime.image_status(&image).await.ok().flatten();
            let user = known.map(|image| image.user).unwrap_or_default();
            check_non_root(pod, container, &user).map_err(config_error)?;
        }
        // One that was made and never started, for an agent that died meanwhile, counts for nothing.
        let unused = latest.filter(|latest| latest.state == ContainerState::Created);
        if let Some(unused) = unused {
            let removed = self.runtime.remove_container(&unused.id).await;
            removed.map_err(|error| fail("CreateContainerError", describe(&error)))?;
        }
        let attempt = match unused {
            Some(unused) => unused.config.attempt,
            None => self.next_attempt(pod, container, latest),
        };
        let env = self.environment(pod, container, &sandbox.ips).await.map_err(config_error)?;
        let mounts = self.mounts(pod, container, &env, &sandbox.ips, attempt, memory).await;
        let mounts = mounts.map_err(config_error)?;
        let mut config = container_config(pod, container, attempt, image, env, mounts);
        if let Some((volumes, _)) = memory.volumes.as_ref().filter(|_| !self.runtime.simulated()) {
            let devices = volumes::devices(container, volumes, &claims::read_only(pod));
            config.devices = devices.map_err(config_error)?;
        }
        config.resources.hugepage_limits =
            hugepages::limits(container, self.config.identity.capacity.keys());
        let (profiles, otherwise) =
            (self.config.root_dir.join("seccomp"), self.config.settings.seccomp.clone());
        config.security.seccomp = seccomp(pod, container, &profiles, otherwise);
        if let Some(target) = debugged(pod, &container.name) {
            let found = observed.latest(target).filter(|c| c.state == ContainerState::Running);
            let missing = || {
                fail("CreateContainerError", format!("unable to find target container {target:?}"))
            };
            config.process_namespace_of = found.ok_or_else(missing)?.id.clone();
        }

        let id = match self.runtime.create_container(&sandbox.id, config).await {
            Ok(id) => id,
            Err(error) => return Err(fail("CreateContainerError", describe(&error))),
        };
        if let Some(allocation) = &mut memory.allocation {
            allocation.made(&container.name, &id);
            self.write_allocation(pod, memory).await;
        }
        self.event(
            &about,
            EventType::Normal,
            "Created",
            &format!("Created container: {}", container.name),
        );
        let now = clock::now();
        let longest = self.config.settings.longest_back_off;
        if let Some(failed_at) = latest
            .filter(|latest| latest.state == ContainerState::Exited)
            .and_then(|l| l.finished_at)
        {
            memory
                .back_offs
                .entry(container.name.clone())
                .or_default()
                .tried(failed_at, now, longest);
        }
        if let Err(error) = self.runtime.start_container(&id).await {
            let why = describe(&error);
            self.event(&about, EventType::Warning, "Failed", &format!("Error: {why}"));
            let status = self.runtime.container_status(&id).await;
            let ended = status.is_ok_and(|status| status.state == ContainerState::Exited);
            // What never started has no end from which to count a pause.
            let pause = if ended {
                None
            } else {
                let back_off = memory.back_offs.entry(container.name.clone()).or_default();
                back_off.tried(now, now, longest);
                Some(back_off.pause())
            };
            return Err(refused("RunContainerError", why, pause));
        }
        self.event(
            &about,
            EventType::Normal,
            "Started",
            &format!("Started container {}", container.name),
        );
        self.post_start(pod, container, &id, sandbox.ips.first().copied()).await
    }

    /// A container's number: the restart count.
    fn next_attempt(
        &self,
        pod: &Pod,
        container: &Container,
        latest: Option<&ContainerStatus>,
    ) -> u32 {
        if let Some(latest) = latest {
            return latest.config.attempt + 1;
        }
        // The runtime has lost the last one; the API may know of it.
        let status = pod.status.as_ref();
        let statuses = status.iter().flat_map(|status| {
            let apps = status.container_statuses.iter().flatten();
            apps.chain(status.init_container_statuses.iter().flatten())
        });
        let known = statuses.into_iter().find(|status| status.name == container.name);
        let ran =
            known.filter(|status| status.container_id.as_ref().is_some_and(|id| !id.is_empty()));
        ran.and_then(|status| u32::try_from(status.restart_count + 1).ok()).unwrap_or(0)
    }

    /// Keeps of each container the newest and the one before, which `lastState` and
    /// `logs --previous` tell of.
    async fn remove_old_attempts(&self, name: &str, pod: &Pod) {
        let Ok(observed) = self.observe(pod).await else { return };
        for old in observed.attempts(name).iter().skip(KEPT) {
            if old.state != ContainerState::Running {
                self.runtime.remove_container(&old.id).await.ok();
            }
        }
    }

    // === settings ===

    async fn environment(
        &self,
        pod: &Pod,
        container: &Container,
        pod_ips: &[IpAddr],
    ) -> Result<Vec<(String, String)>, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (config_maps, secrets) = env::references(container);
        let referenced = self.fetch(namespace, config_maps, secrets).await?;
        let links = pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
        let mut services: Vec<Arc<Service>> = Vec::new();
        if let Some(informer) = &self.services {
            // One that is to run without an API server does not wait for it.
            if !is_static(pod) {
                informer.synced().await;
            }
            services.extend(informer.get("default", "kubernetes"));
            if links {
                services.extend(informer.list_in(namespace).into_iter().filter(|service| {
                    namespace != "default" || service.metadata.name.as_deref() != Some("kubernetes")
                }));
            }
        }
        let services =
            env::service_variables(services.iter().map(|service| &**service), namespace, links);
        env::environment(container, &self.facts(pod, pod_ips), &referenced, &services)
    }

    async fn mounts(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Container,
        env: &[(String, String)],
        pod_ips: &[IpAddr],
        attempt: u32,
        memory: &mut Memory,
    ) -> Result<Vec<Mount>, String> {
        if self.runtime.simulated() {
            return Ok(Vec::new());
        }
        if memory.volumes.is_none() {
            // After a restart of the agent: the volumes are there, but where is not known.
            let made = self.set_up_volumes(pod, pod_ips, memory).await;
            made.map_err(|(volume, why)| {
                format!("MountVolume.SetUp failed for volume {volume:?} : {why}")
            })?;
        }
        let volumes = memory.volumes.as_ref().map(|(paths, _)| paths.clone()).unwrap_or_default();
        let (dir, container, env) = (self.pod_dir(pod), container.clone(), env.to_vec());
        let read_only = claims::read_only(pod);
        let recursive = self.runtime.recursive_read_only();
        let hosts = hosts_file(pod, pod_ips, &self.config.cluster_dns.domain);
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let hosts = if host_network {
            let nodes = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            hosts_file_of_node(pod, &nodes)
        } else {
            Some(hosts)
        };
        let work = move || {
            let mut mounts =
                volumes::mounts(&dir, &container, &volumes, &read_only, recursive, &env)?;
            let taken = |mounts: &[Mount], path: &str| {
                mounts.iter().any(|mount| mount.container_path == Path::new(path))
            };
            let file = |path: PathBuf, text: &str| {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
                }
                std::fs::write(&path, text).map_err(|error| error.to_string())?;
                Ok::<_, String>(path)
            };
            if let Some(hosts) = hosts.filter(|_| !taken(&mounts, "/etc/hosts")) {
                let host_path = file(dir.join("etc-hosts"), &hosts)?;
                mounts.push(Mount {
                    host_path,
                    container_path: "/etc/hosts".into(),
                    ..Default::default()
                });
            }
            let message =
                container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
            if !message.is_empty() && !taken(&mounts, message) {
                let path = dir.join("containers").join(&container.name).join(attempt.to_string());
                let host_path = file(path, "")?;
                volumes::set_mode(&host_path, 0o666).map_err(|error| error.to_string())?;
                mounts.push(Mount {
                    host_path,
                    container_path: message.into(),
                    ..Default::default()
                });
            }
            Ok(mounts)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
    }

    /// Makes the pod's volumes, or brings them up to date.
    pub(super) async fn set_up_volumes(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        pod_ips: &[IpAddr],
        memory: &mut Memory,
    ) -> Result<(), volumes::Failure> {
        let list = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        // Nobody in a simulated container reads its token: not worth a request for each Pod.
        let is_token = |volume: &Volume| volume.name.starts_with("kube-api-access-");
        if self.runtime.simulated() && list.iter().all(is_token) {
            return Ok(());
        }
        let first = || list.first().map(|volume| volume.name.clone()).unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (config_maps, secrets) = volumes::references(pod);
        let referenced = self
            .fetch(namespace, config_maps.into_iter().collect(), secrets.into_iter().collect())
            .await
            .map_err(|why| (first(), why))?;
        if !self.runtime.simulated() {
            memory.shown = references::versions(pod, &referenced);
            self.follow_references(pod);
            self.fetch_tokens(pod, memory).await?;
        }
        // What is mounted stays, whatever becomes of its claim while the Pod runs.
        let mounted = memory.volumes.as_ref().map(|(paths, _)| paths.clone()).unwrap_or_default();
        let mut claimed = self.claimed(pod, &mounted).await?;
        let tokens = if self.runtime.simulated() {
            token_sources(pod).map(|(key, ..)| (key, String::new())).collect()
        } else {
            memory.tokens.iter().map(|(key, (token, _))| (key.clone(), token.clone())).collect()
        };
        let facts = self.facts(pod, pod_ips);
        let mut sources = Vec::new();
        for volume in list {
            let source = match (claimed.remove(&volume.name), mounted.get(&volume.name)) {
                (Some(source), _) => Ok(source),
                (None, Some(path)) if is_mounted_once(pod, volume) => {
                    Ok(volumes::Source::HostPath { path: path.clone(), type_: String::new() })
                }
                (None, _) => volumes::source(volume, &facts, &referenced, &tokens),
            };
            let source = source.map_err(|why| (volume.name.clone(), why))?;
            let source = self.mounted(pod, volume, source, memory).await?;
            sources.push((volume.name.clone(), source));
        }
        let mut paths = BTreeMap::new();
        if !self.runtime.simulated() {
            let dir = self.pod_dir(pod);
            let group = volumes::group_of(pod);
            let work = move || {
                for (name, source) in sources {
                    let path = volumes::set_up(&dir, &name, source, group)
                        .map_err(|why| (name.clone(), why))?;
                    paths.insert(name, path);
                }
                Ok::<_, volumes::Failure>(paths)
            };
            let made = tokio::task::spawn_blocking(work).await;
            paths = made.map_err(|error| (first(), error.to_string()))??;
        }
        memory.volumes = Some((paths, clock::now()));
        Ok(())
    }

    /// Has a driver mount a volume that only a driver can; others are left for later.
    async fn mounted(
        &self,
        pod: &Pod,
        volume: &Volume,
        source: volumes::Source,
        memory: &mut Memory,
    ) -> Result<volumes::Source, volumes::Failure> {
        let wanted = match source {
            volumes::Source::Csi(wanted) if !self.runtime.simulated() => wanted,
            volumes::Source::Image(image) if !self.runtime.simulated() => {
                let path = self.mount_image(pod, volume, &image, memory).await;
                let path = path.map_err(|why| (volume.name.clone(), why))?;
                return Ok(volumes::Source::HostPath { path, type_: String::new() });
            }
            other => return Ok(other),
        };
        let target = self.mount_csi(pod, &volume.name, &wanted).await;
        let target = target.map_err(|why| (volume.name.clone(), why))?;
        let block = wanted.is_block();
        let mounted = csi::Mounted {
            wanted: *wanted,
            target: target.clone(),
            claim: claim_of(pod, volume),
            published_at: clock::now(),
        };
        memory.csi.insert(volume.name.clone(), mounted);
        Ok(match block {
            true => volumes::Source::Device(target),
            false => volumes::Source::HostPath { path: target, type_: String::new() },
        })
    }

    /// Has the image of a volume fetched, as that of a container, and mounted.
    async fn mount_image(
        &self,
        pod: &Pod,
        volume: &Volume,
        image: &ImageVolumeSource,
        memory: &mut Memory,
    ) -> Result<PathBuf, String> {
        let wanted = Container {
            name: volume.name.clone(),
            image: image.reference.clone(),
            image_pull_policy: image.pull_policy.clone(),
            ..Container::default()
        };
        let refused = |Refused { waiting, .. }: Refused| {
            format!("{}: {}", waiting.reason, waiting.message.unwrap_or_default())
        };
        let name = self.ensure_image(pod, &wanted, memory).await.map_err(refused)?;
        let target = volumes::directory(&self.pod_dir(pod), "image", &volume.name);
        let mounted = self.runtime.mount_image(&name, &target).await;
        mounted.map_err(|error| describe(&error))?;
        Ok(target)
    }

    /// Fetches the tokens that volumes show, and new ones when four fifths of their life are over.
    async fn fetch_tokens(&self, pod: &Pod, memory: &mut Memory) -> Result<(), volumes::Failure> {
        let now = clock::now();
        for (key, audience, seconds) in token_sources(pod) {
            if memory.tokens.get(&key).is_some_and(|(_, renew_at)| *renew_at > now) {
                continue;
            }
            let answer = self.request_token(pod, audience, Some(seconds)).await;
            let status = match answer {
                Ok(status) => status,
                Err(error) if memory.tokens.contains_key(&key) => {
                    tracing::warn!(pod = full_name(pod), %error, "unable to renew a token, will try again");
                    continue;
                }
                Err(error) => return Err((key.0, format!("failed to fetch token: {error}"))),
            };
            let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
                return Err((key.0, "failed to fetch token: the answer has none".into()));
            };
            let life = expires.0.duration_since(now).as_secs() * 4 / 5;
            let renew_at =
                now.saturating_add(SignedDuration::from_secs(life)).unwrap_or(Timestamp::MAX);
            memory.tokens.insert(key, (token, renew_at));
        }
        Ok(())
    }

    /// A token of the Pod's service account that is good as long as the Pod is there.
    pub(super) async fn request_token(
        &self,
        pod: &Pod,
        audience: Option<String>,
        seconds: Option<i64>,
    ) -> kube::Result<TokenRequestStatus> {
        let reference = pod_ref(pod);
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience]),
                expiration_seconds: seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(reference.name.clone()),
                    uid: Some(reference.uid.clone()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &reference.namespace);
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await?;
        Ok(answer.status.unwrap_or_default())
    }

    // === hooks ===

    async fn post_start(
        &self,
        pod: &Pod,
        container: &Container,
        id: &str,
        pod_ip: Option<IpAddr>,
    ) -> Result<(), Refused> {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let place = Place { container, container_id: id, pod_ip };
        let verdict =
            handler::run(&*self.runtime, &Action::of_hook(hook), &place, Duration::MAX / 4).await;
        let (Verdict::Failure(why) | Verdict::Unknown(why)) = verdict else { return Ok(()) };
        let about = self.container_ref(pod, &container.name);
        self.event(
            &about,
            EventType::Warning,
            "FailedPostStartHook",
            &format!("PostStartHook failed: {why}"),
        );
        let message = "FailedPostStartHook";
        self.event(&about, EventType::Normal, "Killing", message);
        self.runtime.stop_container(id, STOP_LEAST).await.ok();
        Err(refused("PostStartHookError", why, None))
    }
}

/// The container whose processes an ephemeral container is to see.
fn debugged<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let mut ephemeral = pod.spec.as_ref()?.ephemeral_containers.iter().flatten();
    let found = ephemeral.find(|container| container.name == name)?;
    found.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// Whether a volume stays as it was mounted first, whatever becomes of what it was made from.
fn is_mounted_once(pod: &Pod, volume: &Volume) -> bool {
    claim_of(pod, volume).is_some() || volume.csi.is_some() || volume.image.is_some()
}

type TokenSource = ((String, String), Option<String>, i64);

/// The tokens that a pod's volumes show: where, for whom, for how long.
fn token_sources(pod: &Pod) -> impl Iterator<Item = TokenSource> {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let volumes = spec.volumes.iter().flatten();
    let tokens = volumes.flat_map(|volume| {
        let sources =
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
        tokens.map(|token| {
            let key = (volume.name.clone(), token.path.clone());
            let audience = token.audience.clone().filter(|audience| !audience.is_empty());
            (key, audience, token.expiration_seconds.unwrap_or(3600))
        })
    });
    tokens.collect::<Vec<_>>().into_iter()
}
