//! Service-account tokens that this cluster issued.

mod legacy;

use async_trait::async_trait;
use http::request::Parts;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};

use super::{AuthenticationError, Authenticator, bearer_token, notes};
use crate::{
    clock,
    resources::BuiltIn,
    server::{
        admission::Provisioner,
        metrics::TokenMetrics,
        reader::Reader,
        token::{Bound, Claims, TokenKey, Verified},
        user::UserInfo,
    },
};

/// Seconds by which clocks may differ, and for which what is being deleted still counts.
const LEEWAY: i64 = 60;

/// Takes users from tokens, as long as the account and whatever else a token is bound to exist.
#[derive(Clone, Debug)]
pub(in crate::server) struct ServiceAccountTokens {
    pub(in crate::server) key: TokenKey,
    pub(in crate::server) reader: Reader,
    pub(in crate::server) metrics: TokenMetrics,
    /// Who writes into Secrets when their tokens were last used.
    pub(in crate::server) server: Provisioner,
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = bearer_token(request) else { return Ok(None) };
        // Others are somebody else's to judge.
        if token.matches('.').count() != 2 || !self.key.issued(&token) {
            return Ok(None);
        }
        let (user, _) =
            self.review(&token, self.key.audiences()).await.map_err(AuthenticationError)?;
        Ok(Some(user))
    }
}

impl ServiceAccountTokens {
    /// Whose token it is, and which of these audiences it is for: at least one.
    pub(in crate::server) async fn review(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        match self.key.verify(token)? {
            Verified::Bound(claims) => {
                let meant = meant_for(&claims.audiences, audiences)?;
                self.check(&claims).await?;
                self.note_age(&claims);
                Ok((user(*claims), meant))
            }
            Verified::OfSecret(claims) => {
                let key = "authentication.k8s.io/legacy-token";
                notes::annotate(key, claims.subject.clone());
                self.metrics.legacy.inc();
                // It does not say whom it is for, so it is for this server.
                let meant = meant_for(self.key.audiences(), audiences)?;
                Ok((self.user_of_secret(token, claims).await?, meant))
            }
        }
    }

    /// Tells of tokens that a program has read only once, and that are taken for a while longer.
    fn note_age(&self, claims: &Claims) {
        let Some(warn_after) = claims.kubernetes.warn_after.filter(|after| *after != 0) else {
            return;
        };
        let late = clock::now().as_second() - warn_after;
        if late <= 0 {
            self.metrics.valid.inc();
            return;
        }
        self.metrics.stale.inc();
        let what = format!("subject: {}, seconds after warning threshold: {late}", claims.subject);
        notes::annotate("authentication.k8s.io/stale-token", what);
    }

    async fn check(&self, claims: &Claims) -> Result<(), String> {
        let now = clock::now().as_second();
        if claims.expires + LEEWAY < now {
            return Err("service account token has expired".to_owned());
        }
        if claims.not_before - LEEWAY > now {
            return Err("service account token is not valid yet".to_owned());
        }
        let bound = &claims.kubernetes;
        let namespace = Some(bound.namespace.as_str());
        self.exists::<ServiceAccount>(namespace, &bound.serviceaccount).await?;
        if let Some(pod) = &bound.pod {
            self.exists::<Pod>(namespace, pod).await?;
        } else if let Some(secret) = &bound.secret {
            self.exists::<Secret>(namespace, secret).await?;
        } else if let Some(node) = &bound.node {
            self.exists::<Node>(None, node).await?;
        }
        Ok(())
    }

    async fn exists<T: BuiltIn + k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
        bound: &Bound,
    ) -> Result<(), String> {
        let found = self.reader.get::<T>(namespace, &bound.name).await;
        let found = found.map_err(|error| error.message)?;
        let oldest = clock::now().as_second() - LEEWAY;
        let is_it = found.is_some_and(|found| {
            let meta = k8s_openapi::Metadata::metadata(&found);
            let deleted = meta.deletion_timestamp.as_ref();
            // A token in a Secret names the Secret only.
            (bound.uid.is_empty() || meta.uid.as_ref() == Some(&bound.uid))
                && deleted.is_none_or(|deleted| deleted.0.as_second() >= oldest)
        });
        if is_it { Ok(()) } else { Err("service account token has been invalidated".to_owned()) }
    }
}

/// Which of the wanted audiences a token is for.
fn meant_for(said: &[String], wanted: &[String]) -> Result<Vec<String>, String> {
    let meant: Vec<String> = wanted.iter().filter(|one| said.contains(one)).cloned().collect();
    match meant.is_empty() {
        true => {
            Err(format!("token audiences {said:?} is invalid for the target audiences {wanted:?}"))
        }
        false => Ok(meant),
    }
}

fn user(claims: Claims) -> UserInfo {
    let bound = claims.kubernetes;
    let mut user = UserInfo {
        uid: bound.serviceaccount.uid,
        ..UserInfo::service_account(&bound.namespace, &bound.serviceaccount.name)
    };
    let mut extra = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    extra("credential-id", format!("JTI={}", claims.id));
    if let Some(pod) = bound.pod {
        extra("pod-name", pod.name);
        extra("pod-uid", pod.uid);
    }
    if let Some(node) = bound.node {
        extra("node-name", node.name);
        if !node.uid.is_empty() {
            extra("node-uid", node.uid);
        }
    }
    user
}
