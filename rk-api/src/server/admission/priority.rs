//! Priority: a Pod's priority is the value of its priority class.

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    scheduling::v1::PriorityClass,
};
use parking_lot::Mutex;

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{reader::Reader, status::Result};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Priority {
    reader: Reader,
    /// The default class as of a version of the classes: most Pods name none.
    default_class: Mutex<Option<(u64, Option<PriorityClass>)>>,
}

impl Priority {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, default_class: Mutex::default() }
    }

    /// The class of Pods that name none; of several the one with the lowest value.
    fn default_class(&self) -> Result<Option<PriorityClass>> {
        let Some(table) = self.reader.table::<PriorityClass>() else { return Ok(None) };
        let revision = table.revision();
        let mut known = self.default_class.lock();
        if let Some((at, class)) = known.as_ref()
            && *at == revision
        {
            return Ok(class.clone());
        }
        let classes = self.reader.list::<PriorityClass>(None)?.into_iter();
        let class = classes.filter(is_default).min_by_key(|class| class.value);
        *known = Some((revision, class.clone()));
        Ok(class)
    }
}

fn is_default(class: &PriorityClass) -> bool {
    class.global_default == Some(true)
}

#[async_trait]
impl Admission for Priority {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        let creates_pod = request.operation == Operation::Create && request.is_about("pods");
        let writes_class = request.operation != Operation::Delete
            && request.resource.kind == "PriorityClass"
            && request.resource.group == "scheduling.k8s.io";
        creates_pod || writes_class
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
            return Ok(());
        };
        let class = match spec.priority_class_name.as_deref().unwrap_or_default() {
            "" => self.default_class()?,
            name => {
                let name = name.to_owned();
                let found = self.reader.get::<PriorityClass>(None, &name).await?;
                if found.is_none() {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(request.forbidden(&why));
                }
                found
            }
        };
        // Looked up again: the class may have been awaited in between.
        match request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) {
            Some(spec) => apply(spec, class.as_ref()).map_err(|why| request.forbidden(&why)),
            None => Ok(()),
        }
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let object = request.object();
        let class = object.and_then(|object| object.as_any().downcast_ref::<PriorityClass>());
        if !class.is_some_and(is_default) {
            return Ok(());
        }
        match self.default_class()? {
            Some(other) if other.metadata.name.as_deref() != Some(request.name) => {
                let name = other.metadata.name.unwrap_or_default();
                Err(request.forbidden(&format!(
                    "PriorityClass {name} is already marked as default. Only one default can exist"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Sets what the class says; an error when the Pod says something else.
fn apply(spec: &mut PodSpec, class: Option<&PriorityClass>) -> std::result::Result<(), String> {
    let value = class.and_then(|class| class.value).unwrap_or(0);
    let policy = class.and_then(|class| class.preemption_policy.clone());
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".to_owned());
    if let Some(priority) = spec.priority.filter(|priority| *priority != value) {
        return Err(format!(
            "the integer value of priority ({priority}) must not be provided in pod spec; priority \
             admission controller computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(found) = spec.preemption_policy.as_ref().filter(|found| **found != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({found}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec.priority_class_name.clone_from(&class.metadata.name);
    }
    spec.priority = Some(value);
    spec.preemption_policy = Some(policy);
    Ok(())
}
