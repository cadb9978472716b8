//! Reads what the request is about from its method and path.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use http::Response;

use super::{LayerFuture, Next, Req, Res};
use crate::server::{
    body::{self, ResponseBody},
    context::Subject,
    info::RequestInfo,
    query::Query,
};

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct RequestInfoLayer<S>(pub S);

impl<S: Next> tower::Service<Req> for RequestInfoLayer<S> {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Either<Ready<Res>, LayerFuture>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let query = Query::parse(request.uri().query());
        let name = selected_name(&query);
        let info =
            RequestInfo::parse(request.method(), request.uri().path(), query.flag("watch"), name);
        match info {
            Ok(mut info) => {
                if info.is_collection() {
                    info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
                }
                request.extensions_mut().insert(Subject(Arc::new((info, query))));
                Either::Right(self.0.call(request))
            }
            Err(error) => Either::Left(ready(Ok(body::failure(request.headers(), &error)))),
        }
    }
}

/// The name that a field selector asks for: who may read one object may also list or watch it.
fn selected_name(query: &Query) -> Option<&str> {
    let requirements = query.get("fieldSelector")?.split(',');
    let mut names = requirements.filter_map(|requirement| {
        let (field, value) = requirement.split_once('=')?;
        (field.trim() == "metadata.name").then(|| value.trim_start_matches('=').trim())
    });
    names.next().filter(|name| !name.is_empty())
}
