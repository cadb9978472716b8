//! Policies and their bindings, ready to be asked.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, MutatingAdmissionPolicyBinding, ParamKind, ParamRef,
    ValidatingAdmissionPolicyBinding,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::super::matching::Matcher;
use crate::server::{cache::Observer, object::CachedObject, reader::Reader};

/// A kind of policy, as it is read from the store. It is compiled when it is first asked.
pub(super) trait Policy: fmt::Debug + Send + Sync + 'static {
    /// The kind of object that says it.
    type Object: k8s_openapi::Resource + DeserializeOwned + 'static;
    /// The kind of its bindings.
    type Binding: k8s_openapi::Resource + DeserializeOwned + Into<BindingParts> + 'static;
    /// What is evaluated.
    type Compiled: fmt::Debug + Send + Sync + 'static;

    fn new(object: Self::Object) -> Self;
    fn compile(&self) -> Self::Compiled;
    fn matcher(&self) -> &Matcher;
    fn param_kind(&self) -> Option<&ParamKind>;
}

/// What bindings of both kinds say.
#[derive(Debug, Default)]
pub(super) struct BindingParts {
    policy: String,
    params: Option<ParamRef>,
    resources: Option<MatchResources>,
    actions: Vec<String>,
}

impl From<ValidatingAdmissionPolicyBinding> for BindingParts {
    fn from(binding: ValidatingAdmissionPolicyBinding) -> Self {
        let spec = binding.spec;
        Self {
            policy: spec.policy_name,
            params: spec.param_ref,
            resources: spec.match_resources,
            actions: spec.validation_actions,
        }
    }
}

impl From<MutatingAdmissionPolicyBinding> for BindingParts {
    fn from(binding: MutatingAdmissionPolicyBinding) -> Self {
        let spec = binding.spec.unwrap_or_default();
        Self {
            policy: spec.policy_name.unwrap_or_default(),
            params: spec.param_ref,
            resources: spec.match_resources,
            actions: Vec::new(),
        }
    }
}

/// Where a policy counts.
#[derive(Debug)]
pub(super) struct Binding {
    pub name: String,
    policy: String,
    pub params: Option<ParamRef>,
    /// `None` for wherever the policy itself does.
    pub matcher: Option<Matcher>,
    /// What a violation leads to: `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

impl Binding {
    fn new(name: &str, parts: BindingParts) -> Self {
        Self {
            name: name.to_owned(),
            policy: parts.policy,
            params: parts.params,
            matcher: parts.resources.as_ref().map(Matcher::from),
            actions: parts.actions,
        }
    }
}

/// A policy with its bindings.
#[derive(Debug)]
pub(super) struct Bound<P: Policy> {
    pub name: String,
    pub policy: Arc<Entry<P>>,
    /// Sorted by name; never empty.
    pub bindings: Vec<Arc<Binding>>,
}

/// A policy, compiled or not.
#[derive(Debug)]
pub(super) struct Entry<P: Policy> {
    policy: P,
    compiled: OnceLock<P::Compiled>,
}

impl<P: Policy> std::ops::Deref for Entry<P> {
    type Target = P;
    fn deref(&self) -> &P {
        &self.policy
    }
}

impl<P: Policy> Entry<P> {
    pub(super) fn compiled(&self) -> &P::Compiled {
        self.compiled.get_or_init(|| self.policy.compile())
    }
}

/// All policies of a kind.
pub(super) struct Policies<P: Policy> {
    state: Mutex<State<P>>,
    all: ArcSwap<Vec<Arc<Bound<P>>>>,
}

impl<P: Policy> fmt::Debug for Policies<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.load().iter().map(|bound| &bound.name)).finish()
    }
}

struct State<P: Policy> {
    policies: BTreeMap<String, Arc<Entry<P>>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl<P: Policy> Policies<P> {
    /// Follows the policies and bindings of a server.
    pub(super) fn of(reader: &Reader) -> Arc<Self> {
        let state = State { policies: BTreeMap::new(), bindings: BTreeMap::new() };
        let all = Arc::new(Self { state: Mutex::new(state), all: ArcSwap::default() });
        if let Some(table) = reader.table::<P::Object>() {
            table.observe(Arc::new(Follower { all: all.clone(), kind: Kind::Policy }));
        }
        if let Some(table) = reader.table::<P::Binding>() {
            table.observe(Arc::new(Follower { all: all.clone(), kind: Kind::Binding }));
        }
        all
    }

    /// All policies that are bound, by their names.
    pub(super) fn all(&self) -> Arc<Vec<Arc<Bound<P>>>> {
        self.all.load_full()
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.all.load().is_empty()
    }

    fn publish(&self, state: &State<P>) {
        let bound = |(name, policy): (&String, &Arc<Entry<P>>)| {
            let own = state.bindings.values().filter(|binding| binding.policy == *name);
            let bindings: Vec<_> = own.cloned().collect();
            let (name, policy) = (name.clone(), policy.clone());
            (!bindings.is_empty()).then(|| Arc::new(Bound { name, policy, bindings }))
        };
        self.all.store(Arc::new(state.policies.iter().filter_map(bound).collect()));
    }
}

/// Which of the two kinds a table holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Policy,
    Binding,
}

/// Tells the index what happens in one table.
struct Follower<P: Policy> {
    all: Arc<Policies<P>>,
    kind: Kind,
}

impl<P: Policy> fmt::Debug for Follower<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<P: Policy> Follower<P> {
    fn note(&self, state: &mut State<P>, object: &CachedObject, gone: bool) {
        let name = object.name().to_owned();
        match self.kind {
            Kind::Policy => match decode::<P::Object>(object, gone) {
                Some(found) => {
                    let entry = Entry { policy: P::new(found), compiled: OnceLock::new() };
                    state.policies.insert(name, Arc::new(entry));
                }
                None => drop(state.policies.remove(&name)),
            },
            Kind::Binding => match decode::<P::Binding>(object, gone) {
                Some(found) => {
                    let binding = Binding::new(&name, found.into());
                    state.bindings.insert(name, Arc::new(binding));
                }
                None => drop(state.bindings.remove(&name)),
            },
        }
    }
}

fn decode<T: DeserializeOwned>(object: &CachedObject, gone: bool) -> Option<T> {
    if gone {
        return None;
    }
    crate::json::from_slice(&object.stored.plain())
        .inspect_err(|error| tracing::error!(%error, key = %object.key, "cannot be read"))
        .ok()
}

impl<P: Policy> Observer for Follower<P> {
    fn changed(&self, new: Option<&Arc<CachedObject>>, old: Option<&Arc<CachedObject>>) {
        let mut state = self.all.state.lock();
        if let Some(object) = new.or(old) {
            self.note(&mut state, object, new.is_none());
        }
        self.all.publish(&state);
    }

    fn replaced(&self, objects: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        let mut state = self.all.state.lock();
        match self.kind {
            Kind::Policy => state.policies.clear(),
            Kind::Binding => state.bindings.clear(),
        }
        for object in objects {
            self.note(&mut state, object, false);
        }
        self.all.publish(&state);
    }
}
