//! Reads what the request is about from its method and path.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Response, header};

use super::{LayerFuture, Next, Req, Res};
use crate::server::{
    body::{self, ResponseBody},
    context::Subject,
    info::RequestInfo,
    pretty,
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
                // The documents of OpenAPI are no objects, and large.
                let for_people = pretty::is_wanted(&query, request.headers())
                    && !request.uri().path().starts_with("/openapi/");
                request.extensions_mut().insert(Subject(Arc::new((info, query))));
                Either::Right(match for_people {
                    true => prettified(&mut self.0, request),
                    false => self.0.call(request),
                })
            }
            Err(error) => Either::Left(ready(Ok(body::failure(request.headers(), &error)))),
        }
    }
}

/// The answer, indented. It is compressed after that, not before.
fn prettified<S: Next>(next: &mut S, mut request: Req) -> LayerFuture {
    let accepting = request.headers().clone();
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    let answer = next.call(request);
    Box::pin(async move {
        let Ok(response) = answer.await;
        Ok(pretty::answer(response, &accepting))
    })
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
