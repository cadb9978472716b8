//! `GetContainerEvents`: what happens, each with all that is known of its pod (KEP-3386).

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use http::{Request, Response};
use hyper::body::Incoming;
use rk_api::clock;
use tonic::Status;
use tonic_prost::ProstCodec;

use super::{
    super::{
        convert::{container, nanoseconds, sandbox},
        v1,
    },
    service::Service,
};
use crate::runtime::{ContainerState, PodRuntimeStatus, RuntimeEvent};

type Events = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

/// Answers with the events from now on, for as long as the client listens.
pub(super) async fn stream(
    service: &Arc<Service>,
    request: Request<Incoming>,
) -> Response<tonic::body::Body> {
    let handler = tower::service_fn(|_: tonic::Request<v1::GetEventsRequest>| {
        let events = follow(service.clone());
        async move { Ok::<_, Status>(tonic::Response::new(events)) }
    });
    let codec = ProstCodec::<v1::ContainerEventResponse, v1::GetEventsRequest>::default();
    tonic::server::Grpc::new(codec).server_streaming(handler, request).await
}

fn follow(service: Arc<Service>) -> Events {
    let events = service.runtime.events();
    let told = events.filter_map(move |event| {
        let service = service.clone();
        async move {
            // A pod that cannot be looked at now is told of with its next event.
            let pod = service.runtime.pod_status(&event.pod.uid).await.ok()?;
            Some(Ok(tell(event, &pod)))
        }
    });
    told.boxed()
}

/// An event as a client is told it.
fn tell(event: RuntimeEvent, pod: &PodRuntimeStatus) -> v1::ContainerEventResponse {
    use v1::ContainerEventType::{Created, Deleted, Started, Stopped};
    let container = pod.containers.iter().find(|c| Some(&c.id) == event.container_id.as_ref());
    let newest = pod.sandboxes.iter().max_by_key(|sandbox| sandbox.config.attempt);
    let kind = match (&event.container_id, container) {
        (Some(_), None) => Deleted,
        (Some(_), Some(container)) => match container.state {
            ContainerState::Created => Created,
            ContainerState::Running => Started,
            ContainerState::Exited | ContainerState::Unknown => Stopped,
        },
        (None, _) => match newest {
            None => Deleted,
            Some(sandbox) if sandbox.ready => Started,
            Some(_) => Stopped,
        },
    };
    let (id, status) = match newest {
        Some(newest) => (newest.id.clone(), sandbox::status_to_v1(newest)),
        // Only who it was is known of a pod that is gone.
        None => (
            String::new(),
            v1::PodSandboxStatus {
                metadata: Some(sandbox::metadata(&event.pod, 0)),
                state: v1::PodSandboxState::NotReady.into(),
                ..Default::default()
            },
        ),
    };
    v1::ContainerEventResponse {
        container_id: event.container_id.unwrap_or(id),
        container_event_type: kind.into(),
        created_at: nanoseconds(clock::now()),
        pod_sandbox_status: Some(status),
        containers_statuses: pod.containers.iter().map(container::status_to_v1).collect(),
    }
}
