//! `--admission-control-config-file`: what admission plug-ins are told (an AdmissionConfiguration).

use std::path::{Path, PathBuf};

use rk::api::server::admission::PodSecurityExemptions;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AdmissionConfiguration {
    plugins: Vec<Plugin>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Plugin {
    name: String,
    path: Option<PathBuf>,
    configuration: Option<PodSecurityConfiguration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodSecurityConfiguration {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Defaults {
    enforce: String,
    audit: String,
    warn: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

/// What PodSecurity is told. `read` gives the text of a file that the configuration names.
pub(crate) fn pod_security(
    text: &str,
    read: impl Fn(&Path) -> Result<String, String>,
) -> Result<PodSecurityExemptions, String> {
    let yaml = |error: &dyn std::fmt::Display| error.to_string();
    let all: AdmissionConfiguration = serde_saphyr::from_str(text).map_err(|error| yaml(&error))?;
    let mut exemptions = PodSecurityExemptions::default();
    for plugin in all.plugins {
        if plugin.name != "PodSecurity" {
            return Err(format!("the plug-in {:?} takes no configuration", plugin.name));
        }
        let configuration = match plugin.path {
            Some(path) => serde_saphyr::from_str(&read(&path)?)
                .map_err(|error| format!("{}: {error}", path.display()))?,
            None => plugin.configuration.unwrap_or_default(),
        };
        let Defaults { enforce, audit, warn } = &configuration.defaults;
        if [enforce, audit, warn].iter().any(|level| !["", "privileged"].contains(&level.as_str()))
        {
            return Err("PodSecurity: levels are set by the labels of namespaces".to_owned());
        }
        let Exemptions { usernames, namespaces, runtime_classes } = configuration.exemptions;
        exemptions = PodSecurityExemptions { usernames, namespaces, runtime_classes };
    }
    Ok(exemptions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> Result<PodSecurityExemptions, String> {
        let other = "exemptions: {usernames: [ann]}";
        pod_security(text, |path| match path.to_str() {
            Some("/there") => Ok(other.to_owned()),
            _ => Err(format!("{}: it is not there", path.display())),
        })
    }

    #[test]
    fn pod_security_is_told_whom_not_to_judge() {
        let text = "
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: privileged, enforce-version: latest}
    exemptions: {usernames: [], namespaces: [kube-system], runtimeClasses: [kata]}
";
        let found = ask(text).unwrap();
        assert_eq!(
            (found.namespaces, found.runtime_classes),
            (vec!["kube-system".into()], vec!["kata".into()])
        );
        let found = ask("plugins: [{name: PodSecurity, path: /there}]").unwrap();
        assert_eq!(found.usernames, ["ann"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "plugins: [{name: EventRateLimit}]",
            "plugins: [{name: PodSecurity, path: /nowhere}]",
            "plugins: [{name: PodSecurity, configuration: {defaults: {enforce: baseline}}}]",
            "plugins: 7",
        ] {
            assert!(ask(text).is_err(), "{text}");
        }
    }
}
