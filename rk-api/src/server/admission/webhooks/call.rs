//! One call of one webhook.

use super::{
    super::{AdmissionRequest, shown::Seen},
    config::Hook,
    review::{self, Unusable, Verdict},
};
use crate::{
    rng,
    server::{
        outbound::{Outbound, OutboundError},
        status::ApiError,
    },
};

/// Why there is no verdict.
pub(super) enum Failure {
    /// The webhook did not answer, or nonsense: what follows is its failure policy's.
    Calling {
        why: String,
        /// The code of its answer, or of what stands for it.
        code: u16,
    },
    /// The request cannot be asked about.
    Refused(ApiError),
}

/// Asks a webhook; what it says besides its verdict is passed on.
pub(super) async fn call(
    outbound: &Outbound,
    hook: &Hook,
    request: &AdmissionRequest<'_>,
    seen: &Seen,
    mutating: bool,
) -> Result<Verdict, Failure> {
    if request.dry_run && !hook.harmless {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Refused(ApiError::bad_request(why)));
    }
    let failed = |why: String, code: u16| Failure::Calling { why, code };
    let Some(version) = hook.review else {
        let why = "could not create admission objects: webhook does not accept known \
                   AdmissionReview versions (v1, v1beta1)";
        return Err(failed(why.to_owned(), 400));
    };
    let unreachable =
        |why: &OutboundError| failed(format!("could not get REST client: {why}"), 500);
    let endpoint = hook.endpoint.as_ref().map_err(unreachable)?;
    let uid = rng::uuid();
    let question = review::question(version, &uid, request, seen);
    let body = serde_json::to_vec(&question)
        .map_err(|error| failed(format!("could not create admission objects: {error}"), 400))?;
    let answer = outbound.post_json(endpoint, hook.timeout, body.into()).await;
    let answer = answer.map_err(|error| match &error {
        OutboundError::Endpoint(_) => unreachable(&error),
        _ => failed(format!("failed to call webhook: {error}"), error.code().unwrap_or(503)),
    })?;
    let verdict = review::verdict(version, &uid, mutating, &answer).map_err(|why| match why {
        Unusable::Undecodable(why) => failed(format!("failed to call webhook: {why}"), 503),
        Unusable::Invalid(why) => failed(format!("received invalid webhook response: {why}"), 503),
        Unusable::Patch(why) => failed(why, 503),
    })?;
    for (key, value) in &verdict.annotations {
        request.annotate(&format!("{}/{key}", hook.name), value.as_str());
    }
    for warning in &verdict.warnings {
        request.warn(warning.as_str());
    }
    Ok(verdict)
}
