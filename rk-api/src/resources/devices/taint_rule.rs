//! DeviceTaintRule: a taint for devices, from somebody other than their driver.

use k8s_openapi::{
    api::resource::v1::{DeviceTaintRule, DeviceTaintRuleStatus},
    jiff::Timestamp,
};
use serde_json::Value;

use super::{
    super::{
        Kind, Part, Resource,
        check::{Errors, list},
        row::Row,
        typed::keep_metadata,
        workload,
    },
    forms,
};
use crate::{
    clock,
    field::{ErrorList, Path},
    meta::table::name_and_age,
};

/// The row of DeviceTaintRule.
pub(super) fn row() -> Resource {
    Row::of::<DeviceTaintRules>().status().done()
}

const CONDITIONS_MAX: usize = 8;

/// How a DeviceTaintRule behaves.
#[derive(Debug, Default)]
pub(super) struct DeviceTaintRules;

impl Kind for DeviceTaintRules {
    type Object = DeviceTaintRule;

    fn default(rule: &mut DeviceTaintRule) {
        rule.spec.taint.time_added.get_or_insert_with(clock::now_seconds);
        rule.status.get_or_insert_default();
    }

    fn prepare_create(rule: &mut DeviceTaintRule) {
        rule.status = Some(DeviceTaintRuleStatus::default());
        workload::first_generation(&mut rule.metadata);
    }

    fn prepare_update(new: &mut DeviceTaintRule, old: &DeviceTaintRule, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
            keep_metadata(&mut new.metadata, &old.metadata);
        } else {
            new.status = old.status.clone();
        }
        // The time is that of the effect: a new effect without a time of its own counts from now.
        let (taint, before) = (&mut new.spec.taint, &old.spec.taint);
        if taint.effect != before.effect && taint.time_added == before.time_added {
            taint.time_added = Some(clock::now_seconds());
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(rule: &DeviceTaintRule) -> ErrorList {
        let (spec, path) = (&rule.spec, Path::new("spec"));
        let mut errors = Errors::default();
        if let Some(selector) = &spec.device_selector {
            let at = path.child("deviceSelector");
            if let Some(driver) = &selector.driver {
                forms::driver(&mut errors, &at.child("driver"), driver);
            }
            if let Some(pool) = &selector.pool {
                forms::pool(&mut errors, &at.child("pool"), pool);
            }
            if let Some(device) = &selector.device {
                forms::label(&mut errors, &at.child("device"), device);
            }
        }
        forms::taint(&mut errors, &spec.taint, None, &path.child("taint"));
        status(&mut errors, rule);
        errors.0
    }

    fn validate_update(new: &DeviceTaintRule, _: &DeviceTaintRule, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        if part == Part::Status {
            status(&mut errors, new);
        }
        errors.0
    }

    fn cells(rule: &DeviceTaintRule, now: Timestamp) -> Vec<Value> {
        name_and_age(&rule.metadata, now)
    }
}

fn status(errors: &mut Errors, rule: &DeviceTaintRule) {
    let conditions = rule.status.as_ref().map_or(&[][..], |status| list(&status.conditions));
    forms::fits(errors, conditions, CONDITIONS_MAX, &Path::new("status.conditions"));
}
