//! From a request to its handler: which resource, which verb, which subresource.

mod components;
mod connection;
mod delete;
mod evictions;
mod list;
mod nonresource;
mod patch;
mod pods;
mod proxy;
mod reviews;
pub(super) mod scale;
mod streams;
mod tokens;
mod watch;
mod write;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use http::{HeaderValue, Method, Response, header};

use super::{
    Inner, aggregation,
    body::{self, RequestBody, ResponseBody},
    cache::Table,
    context::{Context, Subject},
    custom_resources,
    kinds::Snapshot,
    layers::{LayerFuture, Req},
    negotiate::{self, Output},
    object::CachedObject,
    registry::Target,
    shape::{Include, Shaper},
    status::{ApiError, Result},
};
use crate::resources::{Part, Resource, Resources, Subresource};

/// The innermost service: it answers.
#[derive(Clone, Debug)]
pub(super) struct Handler(pub Arc<Inner>);

impl tower::Service<Req> for Handler {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = LayerFuture;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move {
            let subject = request.extensions().get::<Subject>();
            let routed = subject.and_then(|Subject(subject)| server.aggregator.route(&subject.0));
            if let Some(backend) = routed {
                return Ok(aggregation::serve(&server, &backend, request).await);
            }
            let headers = request.headers().clone();
            let answer = match Context::new(request) {
                Ok((mut context, body, extensions)) => {
                    let kinds = custom_resources::kinds(&server, context.info()).await;
                    let answer = match restrict_formats(&mut context, &kinds) {
                        Ok(()) => {
                            let call = Call { server: &server, context: &context, kinds: &kinds };
                            call.answer(body, extensions).await
                        }
                        Err(error) => Err(error),
                    };
                    let mut response =
                        answer.unwrap_or_else(|error| body::failure(&headers, &error));
                    for warning in context.warnings.headers() {
                        if let Ok(value) = HeaderValue::from_str(&warning) {
                            response.headers_mut().append(header::WARNING, value);
                        }
                    }
                    response
                }
                Err(error) => body::failure(&headers, &error),
            };
            Ok(answer)
        })
    }
}

/// Custom kinds and their definitions have no protobuf form: the client's other choices count, if it
/// has any.
fn restrict_formats(context: &mut Context, kinds: &Snapshot) -> Result<()> {
    let info = &context.subject.0;
    if !info.is_resource || info.subresource == "scale" {
        return Ok(());
    }
    let row = kinds.resources.get(&info.group, &info.version, &info.resource);
    let lacks = |row: &Arc<Resource>| {
        row.strategy.custom().is_some() || row.kind == "CustomResourceDefinition"
    };
    match row.is_some_and(lacks) {
        true => negotiate::without_protobuf(&mut context.headers),
        false => Ok(()),
    }
}

/// One request being handled.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) server: &'a Arc<Inner>,
    pub(super) context: &'a Context,
    /// The kinds that were served when the request came.
    pub(super) kinds: &'a Snapshot,
}

impl<'a> Call<'a> {
    async fn answer(
        self,
        mut body: RequestBody,
        extensions: http::Extensions,
    ) -> Result<Response<ResponseBody>> {
        let info = self.context.info();
        if !info.is_resource {
            return self.nonresource().await;
        }
        if self.is_of_no_group() {
            return Ok(nonresource::page_not_found());
        }
        let resource = self.resource()?;
        if info.subresource == "proxy" && self.subresource(resource)?.is_some() {
            return self.proxy(resource, body, extensions).await;
        }
        if self.context.method == Method::HEAD {
            return Err(ApiError::method_not_allowed());
        }
        let subresource = self.subresource(resource)?;
        let has = |verbs: &[std::borrow::Cow<'static, str>]| verbs.contains(&info.verb);
        let allowed = match subresource {
            Some(subresource) => has(&subresource.verbs),
            None => has(&resource.verbs),
        };
        if !allowed {
            return Err(ApiError::method_not_allowed());
        }
        if let Some(deprecation) = resource.strategy.deprecation()
            // A subresource of another kind is not what is deprecated.
            && subresource.is_none_or(|subresource| subresource.kind == resource.kind)
        {
            self.context.warnings.add(deprecation);
        }
        if let Some(subresource) = subresource {
            return self.on_subresource(resource, subresource, body, extensions).await;
        }
        match info.verb.as_ref() {
            "get" | "list" if resource.kind == "ComponentStatus" => self.components(resource).await,
            "get" => self.get(resource).await,
            "list" => self.list(resource).await,
            "watch" => self.watch(resource).await,
            "create" if resource.kind == "Binding" && resource.group.is_empty() => {
                self.bind(resource, body::read(&mut body).await?).await
            }
            "create" if reviews::is_review(resource) => {
                self.review(resource, body::read(&mut body).await?).await
            }
            "create" => self.create(resource, body::read(&mut body).await?).await,
            "update" => self.update(resource, body::read(&mut body).await?).await,
            "patch" => self.patch(resource, body::read(&mut body).await?).await,
            "delete" => self.delete(resource, body::read(&mut body).await?).await,
            "deletecollection" => {
                self.delete_collection(resource, body::read(&mut body).await?).await
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    async fn on_subresource(
        self,
        resource: &'a Arc<Resource>,
        subresource: &'a Subresource,
        mut body: RequestBody,
        extensions: http::Extensions,
    ) -> Result<Response<ResponseBody>> {
        let verb = self.context.info().verb.as_ref();
        match (subresource.name.as_ref(), verb) {
            _ if self.part() != Part::Main && verb == "get" => self.get(resource).await,
            _ if self.part() != Part::Main && verb == "update" => {
                self.update(resource, body::read(&mut body).await?).await
            }
            _ if self.part() != Part::Main && verb == "patch" => {
                self.patch(resource, body::read(&mut body).await?).await
            }
            ("scale", _) => self.scale(resource, body::read(&mut body).await?).await,
            ("binding", _) => self.bind(resource, body::read(&mut body).await?).await,
            ("eviction", _) => self.evict(resource, body::read(&mut body).await?).await,
            ("log", _) => self.log(resource, extensions).await,
            ("exec" | "attach" | "portforward", _) => self.connect(resource, extensions).await,
            ("token", _) => self.token(resource, body::read(&mut body).await?).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Whether the path is of a version that nobody serves, of a group that is not built in. Who
    /// would serve it is not there to answer either.
    fn is_of_no_group(self) -> bool {
        let info = self.context.info();
        let in_group = |resources: &Resources, version: Option<&str>| {
            let is_of = |row: &&Arc<Resource>| {
                row.group == info.group && version.is_none_or(|version| row.version == version)
            };
            resources.iter().any(|row| is_of(&row))
        };
        let is_known =
            self.kinds.resources.get(&info.group, &info.version, &info.resource).is_some();
        !is_known
            && !in_group(self.server.kinds.builtin(), None)
            && !in_group(&self.kinds.resources, Some(&info.version))
    }

    /// The resource, if the path fits its scope.
    fn resource(self) -> Result<&'a Arc<Resource>> {
        let info = self.context.info();
        let found = self.kinds.resources.get(&info.group, &info.version, &info.resource);
        let resource = found.ok_or_else(ApiError::no_such_path)?;
        let in_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
        let named = !info.is_collection() && info.verb != "create";
        if in_namespace && !resource.namespaced {
            return Err(ApiError::no_such_path());
        }
        if !in_namespace && resource.namespaced {
            // Across namespaces objects can be listed and watched, nothing else.
            if named {
                return Err(ApiError::no_such_path());
            }
            if !["list", "watch"].contains(&info.verb.as_ref()) {
                return Err(ApiError::method_not_allowed());
            }
        }
        if info.verb == "create" && !info.name.is_empty() && info.subresource.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        if named && info.name.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        Ok(resource)
    }

    fn subresource(self, resource: &'a Resource) -> Result<Option<&'a Subresource>> {
        let name = self.context.info().subresource.as_str();
        if name.is_empty() {
            return Ok(None);
        }
        let found = resource.subresources.iter().find(|subresource| subresource.name == name);
        found.map(Some).ok_or_else(ApiError::no_such_path)
    }

    /// The namespace that the path names, if the resource has namespaces.
    fn namespace(self, resource: &Resource) -> Option<&'a str> {
        let namespace = self.context.info().namespace.as_str();
        (resource.namespaced && !namespace.is_empty()).then_some(namespace)
    }

    fn target(self, resource: &'a Arc<Resource>, dry_run: bool) -> Target<'a> {
        let info = self.context.info();
        Target {
            resource,
            subresource: &info.subresource,
            namespace: self.namespace(resource),
            name: &info.name,
            user: &self.context.user,
            dry_run,
            manager: self.context.manager(),
            context: Some(self.context),
        }
    }

    fn table(self, resource: &Resource) -> Result<Arc<Table>> {
        self.server.registry.cache.table(resource)
    }

    fn output(self, streaming: bool) -> Result<Output> {
        negotiate::output(&self.context.headers, streaming)
    }

    fn shaper(self, resource: &Arc<Resource>, output: Output) -> Result<Shaper> {
        let include = Include::read(self.context.query())?;
        Ok(Shaper { resource: resource.clone(), shape: output.shape, include })
    }

    async fn get(self, resource: &'a Arc<Resource>) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let target = self.target(resource, false);
        let cache = &self.server.registry.cache;
        match self.context.query().get("resourceVersion").unwrap_or_default() {
            "" => cache.fresh().await?,
            version => cache.wait_for(super::query::parse_version(version)?).await?,
        };
        let object = self.table(resource)?.get(&target.key()).ok_or_else(|| target.not_found())?;
        self.shaped(200, output, &shaper, &object).await
    }

    /// An answer that shows one object.
    async fn shaped(
        self,
        status: u16,
        output: Output,
        shaper: &Shaper,
        object: &Arc<CachedObject>,
    ) -> Result<Response<ResponseBody>> {
        self.server.registry.converter.show(&shaper.resource, std::slice::from_ref(object)).await?;
        let mut out = Vec::with_capacity(object.stored.len_max());
        shaper.object(object, object.revision, true, &mut out);
        Ok(body::answer(&self.context.headers, status, output.format, out))
    }
}
