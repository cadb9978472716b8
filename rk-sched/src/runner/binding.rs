//! From the choice of a node to the Pod bound to it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::waiting::{Verdict, WaitingPods};
use crate::{Code, PodInfo, Profile, Status, framework::BindContext};

/// A binding that is under way.
pub(super) struct Binding {
    pub(super) profile: Arc<Profile>,
    pub(super) context: BindContext,
    pub(super) info: Arc<PodInfo>,
    pub(super) node: String,
}

/// How it ended.
pub(super) struct Outcome {
    pub(super) info: Arc<PodInfo>,
    pub(super) node: String,
    pub(super) result: Bound,
}

pub(super) enum Bound {
    Yes,
    No { plugin: &'static str, status: Status },
}

/// A `Permit` that has not been given yet.
pub(super) struct Wait {
    verdict: oneshot::Receiver<Verdict>,
    uid: Arc<str>,
    waiting: WaitingPods,
    timeout: Duration,
    plugin: &'static str,
}

type Rejected = (&'static str, Status);

impl Binding {
    /// Runs `Reserve` and `Permit`; both are quick.
    pub(super) fn reserve_and_permit(
        &self,
        waiting: &WaitingPods,
    ) -> Result<Option<Wait>, Rejected> {
        for plugin in &self.profile.reserve {
            let Some(reserve) = plugin.as_reserve() else { continue };
            let status = reserve.reserve(&self.info, &self.node);
            if !status.is_success() {
                return Err((plugin.name(), status));
            }
        }
        let mut holding = BTreeSet::new();
        let mut shortest: Option<(Duration, &'static str)> = None;
        for plugin in &self.profile.permit {
            let Some(permit) = plugin.as_permit() else { continue };
            let (status, timeout) = permit.permit(&self.info, &self.node);
            match status.code() {
                Code::Success | Code::Skip => {}
                Code::Wait => {
                    holding.insert(plugin.name());
                    let this = (timeout, plugin.name());
                    shortest = Some(shortest.map_or(this, |before| before.min(this)));
                }
                _ => return Err((plugin.name(), status)),
            }
        }
        Ok(shortest.map(|(timeout, plugin)| Wait {
            verdict: waiting.hold(self.info.clone(), &self.node, holding),
            uid: self.info.uid.clone(),
            waiting: waiting.clone(),
            timeout,
            plugin,
        }))
    }

    /// The end of a binding that was turned down before it began.
    pub(super) fn rejected(self, rejected: Rejected) -> Outcome {
        self.end(Err(rejected))
    }

    /// Waits for `Permit`, then runs `PreBind`, `Bind` and `PostBind`.
    pub(super) async fn bind(self, wait: Option<Wait>) -> Outcome {
        let result = self.try_bind(wait).await;
        if result.is_ok() {
            for plugin in &self.profile.post_bind {
                if let Some(post_bind) = plugin.as_post_bind() {
                    post_bind.post_bind(&self.info, &self.node).await;
                }
            }
        }
        self.end(result)
    }

    async fn try_bind(&self, wait: Option<Wait>) -> Result<(), Rejected> {
        if let Some(wait) = wait {
            wait.permitted().await?;
        }
        for plugin in &self.profile.pre_bind {
            let Some(pre_bind) = plugin.as_pre_bind() else { continue };
            let status = pre_bind.pre_bind(&self.context, &self.info, &self.node).await;
            if !matches!(status.code(), Code::Success | Code::Skip) {
                return Err((plugin.name(), as_error(status)));
            }
        }
        for plugin in &self.profile.bind {
            let Some(bind) = plugin.as_bind() else { continue };
            let status = bind.bind(&self.context, &self.info, &self.node).await;
            match status.code() {
                Code::Success => return Ok(()),
                Code::Skip => {}
                _ => return Err((plugin.name(), as_error(status))),
            }
        }
        Err(("Bind", Status::error("no plugin bound the pod")))
    }

    fn end(self, result: Result<(), Rejected>) -> Outcome {
        let result = match result {
            Ok(()) => Bound::Yes,
            Err((plugin, status)) => {
                for reserve in self.profile.reserve.iter().rev().filter_map(|it| it.as_reserve()) {
                    reserve.unreserve(&self.info, &self.node);
                }
                Bound::No { plugin, status }
            }
        };
        Outcome { info: self.info, node: self.node, result }
    }
}

/// After `Permit` a Pod is no longer unschedulable, whatever goes wrong.
fn as_error(status: Status) -> Status {
    if status.code() == Code::Error { status } else { Status::error(status.message()) }
}

impl Wait {
    async fn permitted(self) -> Verdict {
        match tokio::time::timeout(self.timeout, self.verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err((self.plugin, Status::error("the pod was deleted"))),
            Err(_) => {
                self.waiting.gone(&self.uid);
                let reason = format!(
                    "rejected due to timeout after waiting {:?} at plugin {}",
                    self.timeout, self.plugin
                );
                Err((self.plugin, Status::unschedulable(reason)))
            }
        }
    }
}
