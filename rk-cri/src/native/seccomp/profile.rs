//! Profiles as files have them: JSON of the OCI runtime specification (config-linux.md, "Seccomp"),
//! with what Docker's form adds: rules that hang on capabilities and machines.

use serde::{Deserialize, Deserializer};

use super::{bpf::Action, syscalls};

/// A profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    pub(super) default_action: String,
    pub(super) default_errno_ret: Option<u16>,
    /// How the kernel is to take the program.
    pub(super) flags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) syscalls: Vec<Syscalls>,
}

/// What is answered to some calls.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Syscalls {
    /// Their names; those that this machine does not have count for nothing.
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) names: Vec<String>,
    /// The one name, as Docker's older profiles have it.
    pub(super) name: Option<String>,
    pub(super) action: String,
    pub(super) errno_ret: Option<u16>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) args: Vec<Argument>,
    /// Docker's: the rule is there only if all of this holds.
    pub(super) includes: Filter,
    /// Docker's: the rule is not there if any of this holds.
    pub(super) excludes: Filter,
}

/// What an argument of a call has to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Argument {
    pub(super) index: u8,
    pub(super) value: u64,
    pub(super) value_two: u64,
    pub(super) op: String,
}

/// When a rule is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) caps: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) arches: Vec<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What is answered to a call if all conditions hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) number: u32,
    pub(super) action: Action,
    /// At most one for each of a call's six arguments.
    pub(super) conditions: Vec<Condition>,
}

/// A comparison of an argument with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) operator: Operator,
    pub(super) value: u64,
}

/// How they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Greater,
    AtLeast,
    Less,
    AtMost,
    /// The bits of this mask are equal, and the value has no others.
    Masked(u64),
}

/// How Docker's profiles call this machine.
const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

impl Profile {
    /// The answer to calls that no rule is about.
    pub(super) fn default_action(&self) -> Result<Action, String> {
        action(&self.default_action, self.default_errno_ret)
    }

    /// The rules for a process with these capabilities, which begin with `CAP_`.
    pub(super) fn rules(&self, capabilities: &[String]) -> Result<Vec<Rule>, String> {
        let mut rules = Vec::new();
        for entry in &self.syscalls {
            let has = |name: &String| capabilities.contains(name);
            let here = |name: &String| name == ARCHITECTURE;
            let Filter { caps, arches } = &entry.includes;
            let included = caps.iter().all(has) && (arches.is_empty() || arches.iter().any(here));
            let excluded =
                entry.excludes.caps.iter().any(has) || entry.excludes.arches.iter().any(here);
            if included && !excluded {
                entry.rules(&mut rules)?;
            }
        }
        Ok(rules)
    }
}

impl Syscalls {
    fn rules(&self, rules: &mut Vec<Rule>) -> Result<(), String> {
        let action = action(&self.action, self.errno_ret)?;
        let conditions: Vec<Condition> =
            self.args.iter().map(Argument::condition).collect::<Result<_, _>>()?;
        let arguments = conditions.iter().map(|condition| condition.argument);
        let distinct: std::collections::BTreeSet<u8> = arguments.collect();
        // Several comparisons of one argument are alternatives, as runc reads them.
        let alternatives = match distinct.len() == conditions.len() {
            true => vec![conditions],
            false => conditions.into_iter().map(|condition| vec![condition]).collect(),
        };
        for name in self.names.iter().chain(&self.name) {
            let Some(number) = syscalls::number(name) else { continue };
            rules.extend(alternatives.iter().map(|conditions| Rule {
                number,
                action,
                conditions: conditions.clone(),
            }));
        }
        Ok(())
    }
}

impl Argument {
    fn condition(&self) -> Result<Condition, String> {
        if self.index > 5 {
            return Err(format!("a call has no argument {}", self.index));
        }
        let (operator, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (Operator::Equal, self.value),
            "SCMP_CMP_NE" => (Operator::NotEqual, self.value),
            "SCMP_CMP_GT" => (Operator::Greater, self.value),
            "SCMP_CMP_GE" => (Operator::AtLeast, self.value),
            "SCMP_CMP_LT" => (Operator::Less, self.value),
            "SCMP_CMP_LE" => (Operator::AtMost, self.value),
            "SCMP_CMP_MASKED_EQ" => (Operator::Masked(self.value), self.value_two),
            other => return Err(format!("unknown operator {other:?}")),
        };
        Ok(Condition { argument: self.index, operator, value })
    }
}

fn action(name: &str, number: Option<u16>) -> Result<Action, String> {
    let number_or_eperm = number.unwrap_or(libc::EPERM as u16);
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_LOG" => Action::LOG,
        "SCMP_ACT_ERRNO" => Action::errno(number_or_eperm),
        "SCMP_ACT_TRACE" => Action::trace(number_or_eperm),
        "SCMP_ACT_TRAP" => Action::TRAP,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action::KILL_PROCESS,
        "SCMP_ACT_NOTIFY" => {
            return Err("SCMP_ACT_NOTIFY needs a listener, of which there is none".to_owned());
        }
        other => return Err(format!("unknown action {other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn profile(syscalls: serde_json::Value) -> Profile {
        let value = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": syscalls});
        serde_json::from_value(value).unwrap()
    }

    fn calls(profile: &Profile, capabilities: &[&str]) -> Vec<u32> {
        let capabilities: Vec<String> =
            capabilities.iter().map(|name| (*name).to_owned()).collect();
        profile.rules(&capabilities).unwrap().iter().map(|rule| rule.number).collect()
    }

    #[test]
    fn rules_hang_on_capabilities_and_machines_as_dockers_do() {
        let read = syscalls::number("read").unwrap();
        let of = |includes: serde_json::Value, excludes: serde_json::Value| {
            profile(json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null,
                "includes": includes, "excludes": excludes}]))
        };
        let with_caps = of(json!({"caps": ["CAP_SYS_ADMIN"]}), json!({}));
        assert!(calls(&with_caps, &[]).is_empty());
        assert_eq!(calls(&with_caps, &["CAP_SYS_ADMIN"]), [read]);
        let without = of(json!({}), json!({"caps": ["CAP_SYS_ADMIN"]}));
        assert_eq!(calls(&without, &[]), [read]);
        assert!(calls(&without, &["CAP_SYS_ADMIN"]).is_empty());
        assert_eq!(calls(&of(json!({"arches": [ARCHITECTURE]}), json!({})), &[]), [read]);
        assert!(calls(&of(json!({"arches": ["s390"]}), json!({})), &[]).is_empty());
    }

    #[test]
    fn a_call_that_this_machine_lacks_counts_for_nothing() {
        let profile = profile(json!([{"names": ["nothing", "write"], "name": "read",
            "action": "SCMP_ACT_ALLOW"}]));
        let known = ["write", "read"].map(|name| syscalls::number(name).unwrap());
        assert_eq!(calls(&profile, &[]), known);
    }

    #[test]
    fn comparisons_of_one_argument_are_alternatives_of_several_all_have_to_hold() {
        let argument = |index: u8| json!({"index": index, "value": 1, "op": "SCMP_CMP_EQ"});
        let with = |args: [serde_json::Value; 2]| {
            let profile =
                profile(json!([{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args}]));
            profile.rules(&[]).unwrap().iter().map(|rule| rule.conditions.len()).collect::<Vec<_>>()
        };
        assert_eq!(with([argument(0), argument(1)]), [2]);
        assert_eq!(with([argument(0), argument(0)]), [1, 1]);
    }

    #[test]
    fn what_a_profile_cannot_mean_is_an_error() {
        let entry = |action: &str, op: &str, index: u8| {
            let args = json!([{"index": index, "value": 1, "op": op}]);
            let profile = profile(json!([{"names": ["read"], "action": action, "args": args}]));
            profile.rules(&[]).err()
        };
        assert_eq!(entry("SCMP_ACT_ALLOW", "SCMP_CMP_EQ", 0), None);
        assert!(entry("SCMP_ACT_MAYBE", "SCMP_CMP_EQ", 0).unwrap().contains("SCMP_ACT_MAYBE"));
        assert!(entry("SCMP_ACT_NOTIFY", "SCMP_CMP_EQ", 0).unwrap().contains("listener"));
        assert!(entry("SCMP_ACT_ALLOW", "SCMP_CMP_LIKE", 0).unwrap().contains("SCMP_CMP_LIKE"));
        assert!(entry("SCMP_ACT_ALLOW", "SCMP_CMP_EQ", 6).is_some());
    }
}
