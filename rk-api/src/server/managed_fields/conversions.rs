//! Forms of an object that only a webhook makes, for entries of other versions than the written one.
//!
//! What becomes of managed fields is decided without waiting. Where the decision needs a form that
//! is not there, it notes that, and is made again when the webhook has answered.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde_json::Value;

use super::super::{
    custom_resources::Converter,
    kinds::Snapshot,
    status::{ApiError, Result},
};
use crate::resources::Resource;

/// So many forms are asked for at most for one write: a few for each version that is managed.
const FORMS_MAX: usize = 64;

/// An object, as JSON, and the version that it is wanted in.
type Question = (String, String);

/// What is known and what is wanted for one write.
#[derive(Debug, Default)]
pub(in crate::server) struct Conversions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<Question, Value>,
    wanted: Vec<Question>,
}

impl Conversions {
    /// The form of an object in a version; `None` if it is to be had from a webhook first.
    pub(super) fn form(&self, object: &Value, api_version: &str) -> Option<Value> {
        let question = (object.to_string(), api_version.to_owned());
        let mut state = self.0.lock();
        if let Some(known) = state.known.get(&question) {
            return Some(known.clone());
        }
        if !state.wanted.contains(&question) {
            state.wanted.push(question);
        }
        None
    }

    /// Whether a decision lacked something and does not count.
    pub(in crate::server) fn are_wanted(&self) -> bool {
        !self.0.lock().wanted.is_empty()
    }

    /// Asks for what is wanted.
    ///
    /// # Errors
    /// When a webhook does not convert it, or too much is wanted.
    pub(in crate::server) async fn ask(
        &self,
        converter: &Converter,
        kinds: &Snapshot,
        resource: &Resource,
    ) -> Result<()> {
        let wanted = std::mem::take(&mut self.0.lock().wanted);
        if self.0.lock().known.len() + wanted.len() > FORMS_MAX {
            let why = format!("more than {FORMS_MAX} forms are needed to tell who manages fields");
            return Err(ApiError::internal(why));
        }
        for (object, api_version) in wanted {
            let converted = converter.convert_one(resource, &object, &api_version).await?;
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let shown = match kinds.resources.get(group, version, &resource.plural) {
                Some(row) => row.strategy.shown(converted.bytes()).map_err(ApiError::internal)?,
                None => converted.bytes().as_ref().into(),
            };
            let form = serde_json::from_slice(&shown).map_err(ApiError::internal)?;
            self.0.lock().known.insert((object, api_version), form);
        }
        Ok(())
    }
}
