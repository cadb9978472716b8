//! What has changed: from the runtime's own stream of events where it has one, else by listing
//! everything every second and comparing (the kubelet's "generic PLEG").

use std::{
    collections::{BTreeMap, HashMap},
    sync::Weak,
    time::Duration,
};

use futures::StreamExt;
use tokio::time::Instant;

use super::{
    client::{Client, Failure},
    memory,
    runtime::Inner,
    v1,
};
use crate::runtime::{PodRef, RuntimeEvent};

/// How often everything is listed when the runtime tells nothing.
const RELIST_EVERY: Duration = Duration::from_secs(1);
/// And when it tells: what a broken stream swallowed is found by then.
const RELIST_SELDOM: Duration = Duration::from_secs(60);
/// The longest pause between two tries to reach a runtime that does not answer.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a list may take.
const LIST_WITHIN: Duration = Duration::from_secs(120);

/// What was listed: the state of each sandbox and container by its id.
type Seen = BTreeMap<String, Thing>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Thing {
    pod: PodRef,
    container: bool,
    state: i32,
}

/// What is to be told after `old` became `new`: everything that came, went or changed its state.
fn changes(old: &Seen, new: &Seen) -> Vec<RuntimeEvent> {
    let event = |(id, thing): (&String, &Thing)| RuntimeEvent {
        pod: thing.pod.clone(),
        container_id: thing.container.then(|| id.clone()),
    };
    let gone = old.iter().filter(|(id, _)| !new.contains_key(*id));
    let changed = new.iter().filter(|(id, thing)| old.get(*id) != Some(thing));
    gone.chain(changed).map(event).collect()
}

/// Follows the runtime for as long as `inner` is there.
pub(super) async fn follow(inner: Weak<Inner>) {
    let mut follower = Follower { seen: Seen::new(), streams: true };
    let mut pause = RELIST_EVERY;
    loop {
        let Some(client) = inner.upgrade().map(|inner| inner.client.clone()) else { return };
        let tell = |event| match inner.upgrade() {
            Some(inner) => {
                inner.events.send(event).ok();
            }
            None => {}
        };
        pause = match follower.round(&client, tell).await {
            Ok(()) => RELIST_EVERY,
            Err(failure) => {
                tracing::debug!(?failure, "the container runtime tells no changes");
                (pause * 2).min(RETRY_MAX)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct Follower {
    seen: Seen,
    /// Whether the runtime has a stream of events, as far as that is known.
    streams: bool,
}

impl Follower {
    /// Lists once, and follows the stream, if there is one, until it ends.
    async fn round(
        &mut self,
        client: &Client,
        mut tell: impl FnMut(RuntimeEvent),
    ) -> Result<(), Failure> {
        if !self.streams {
            return self.relist(client, &mut tell).await;
        }
        // A runtime may open the stream with its first event only, so it is not waited for: the
        // list comes after the request at any rate.
        let opening = client.events(LIST_WITHIN);
        tokio::pin!(opening);
        let opened = tokio::select! { biased;
            opened = &mut opening => Some(opened),
            listed = self.relist(client, &mut tell) => {
                listed?;
                None
            }
        };
        let mut every = tokio::time::interval_at(Instant::now() + RELIST_SELDOM, RELIST_SELDOM);
        let opened = match opened {
            Some(opened) => opened,
            None => loop {
                tokio::select! { biased;
                    opened = &mut opening => break opened,
                    _ = every.tick() => self.relist(client, &mut tell).await?,
                }
            },
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(failure) => return self.stream_failed(failure),
        };
        self.relist(client, &mut tell).await?;
        loop {
            tokio::select! { biased;
                event = stream.next() => match event {
                    Some(Ok(event)) => event_from_v1(event).into_iter().for_each(&mut tell),
                    Some(Err(status)) => return self.stream_failed(Failure::Refused(status)),
                    None => return Ok(()),
                },
                _ = every.tick() => self.relist(client, &mut tell).await?,
            }
        }
    }

    /// Keeps in mind that there are no streams, if that is why.
    fn stream_failed(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.is_unimplemented() {
            self.streams = false;
            return Ok(());
        }
        Err(failure)
    }

    async fn relist(
        &mut self,
        client: &Client,
        tell: &mut impl FnMut(RuntimeEvent),
    ) -> Result<(), Failure> {
        let new = list(client).await?;
        changes(&self.seen, &new).into_iter().for_each(tell);
        self.seen = new;
        Ok(())
    }
}

async fn list(client: &Client) -> Result<Seen, Failure> {
    // In this order a container's sandbox is known, unless it is gone already.
    let containers = client.call(v1::ListContainersRequest::default(), LIST_WITHIN).await?;
    let sandboxes = client.call(v1::ListPodSandboxRequest::default(), LIST_WITHIN).await?;
    let mut pods = HashMap::new();
    let mut seen = Seen::new();
    for sandbox in sandboxes.items {
        let (pod, _) = super::convert::sandbox::pod_ref(sandbox.metadata.unwrap_or_default());
        pods.insert(sandbox.id.clone(), pod.clone());
        seen.insert(sandbox.id, Thing { pod, container: false, state: sandbox.state });
    }
    for container in containers.containers {
        let known = pods.get(&container.pod_sandbox_id).cloned();
        let pod = known.unwrap_or_else(|| memory::pod_of(&container.labels));
        seen.insert(container.id, Thing { pod, container: true, state: container.state });
    }
    Ok(seen)
}

/// An event of the runtime's own; `None` when it does not name its pod.
fn event_from_v1(event: v1::ContainerEventResponse) -> Option<RuntimeEvent> {
    let sandbox = event.pod_sandbox_status?;
    let (pod, _) = super::convert::sandbox::pod_ref(sandbox.metadata?);
    // Events of sandboxes bear the sandbox's id.
    let container_id = Some(event.container_id).filter(|id| *id != sandbox.id);
    Some(RuntimeEvent { pod, container_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(things: &[(&str, bool, i32)]) -> Seen {
        let pod = PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        let thing = |(id, container, state): &(&str, bool, i32)| {
            (id.to_string(), Thing { pod: pod.clone(), container: *container, state: *state })
        };
        things.iter().map(thing).collect()
    }

    fn told(old: &[(&str, bool, i32)], new: &[(&str, bool, i32)]) -> Vec<Option<String>> {
        changes(&seen(old), &seen(new)).into_iter().map(|event| event.container_id).collect()
    }

    #[test]
    fn what_comes_goes_or_changes_is_told() {
        let container = |id: &str| Some(id.to_owned());
        assert_eq!(told(&[], &[("s", false, 0), ("c", true, 0)]), [container("c"), None]);
        assert_eq!(told(&[("c", true, 0)], &[("c", true, 1)]), [container("c")]);
        assert_eq!(told(&[("s", false, 0), ("c", true, 1)], &[("s", false, 0)]), [container("c")]);
        assert_eq!(told(&[("s", false, 0)], &[("s", false, 1)]), [None]);
        assert_eq!(told(&[("c", true, 1)], &[("c", true, 1)]), []);
    }

    #[test]
    fn an_event_of_a_sandbox_names_no_container() {
        let event = |id: &str| {
            event_from_v1(v1::ContainerEventResponse {
                container_id: id.into(),
                pod_sandbox_status: Some(v1::PodSandboxStatus {
                    id: "s".into(),
                    metadata: Some(Default::default()),
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        assert_eq!(event("s").unwrap().container_id, None);
        assert_eq!(event("c").unwrap().container_id.as_deref(), Some("c"));
    }
}
