//! What values fields can have, and which go together.

use std::time::Duration;

use rk_api::meta::quantity::Quantity;

use super::{ConfigurationError, GoDuration, KubeletConfiguration};
use crate::agent::eviction::thresholds::{self, Signal};

/// What can be reserved.
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

fn invalid(field: &str, reason: impl Into<String>) -> ConfigurationError {
    ConfigurationError::Invalid { field: field.to_owned(), reason: reason.into() }
}

impl KubeletConfiguration {
    /// Refuses what cannot be, and fills in times that are written as nothing.
    pub(super) fn validate(&mut self) -> Result<(), ConfigurationError> {
        self.fill_in_times();
        for (field, reserved) in
            [("kubeReserved", &self.kube_reserved), ("systemReserved", &self.system_reserved)]
        {
            for (name, amount) in reserved {
                if !RESERVABLE.contains(&name.as_str()) {
                    return Err(invalid(field, format!("cannot reserve {name:?} resource")));
                }
                Quantity::parse(amount)
                    .map_err(|error| invalid(field, format!("{name}: {amount:?}: {error}")))?;
            }
        }
        self.validate_eviction()?;
        self.validate_shutdown()?;
        self.validate_images()?;
        if Quantity::parse(&self.container_log_max_size).map_or(0, |size| size.value()) <= 0 {
            let reason = format!("{:?} is no size", self.container_log_max_size);
            return Err(invalid("containerLogMaxSize", reason));
        }
        let policy = &self.image_pull_credentials_verification_policy;
        let allowed = &self.preloaded_images_verification_allowlist;
        if self.image_verification().is_none() {
            let field = "imagePullCredentialsVerificationPolicy";
            return Err(invalid(field, format!("unknown policy {policy:?}")));
        }
        if !allowed.is_empty() && policy != "NeverVerifyAllowlistedImages" {
            let reason = "needs the policy NeverVerifyAllowlistedImages";
            return Err(invalid("preloadedImagesVerificationAllowlist", reason));
        }
        if self.container_log_max_files < 2 {
            return Err(invalid("containerLogMaxFiles", "must be greater than 1"));
        }
        if self.node_lease_duration_seconds == 0 {
            return Err(invalid("nodeLeaseDurationSeconds", "must be greater than 0"));
        }
        match (self.tls_cert_file.is_empty(), self.tls_private_key_file.is_empty()) {
            (true, false) => return Err(invalid("tlsPrivateKeyFile", "needs tlsCertFile")),
            (false, true) => return Err(invalid("tlsCertFile", "needs tlsPrivateKeyFile")),
            _ => {}
        }
        if let Some(longest) = self.crash_loop_back_off.max_container_restart_period
            && !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&longest.0)
        {
            let reason = "must be between 1s and 300s";
            return Err(invalid("crashLoopBackOff.maxContainerRestartPeriod", reason));
        }
        Ok(())
    }

    /// A time of nothing is one that is not set, where there has to be one.
    fn fill_in_times(&mut self) {
        let default = Self::default();
        let fill = |time: &mut GoDuration, default: GoDuration| {
            if time.0.is_zero() {
                *time = default;
            }
        };
        fill(&mut self.image_minimum_gc_age, default.image_minimum_gc_age);
        fill(&mut self.file_check_frequency, default.file_check_frequency);
        fill(&mut self.node_status_report_frequency, default.node_status_report_frequency);
        fill(&mut self.container_log_monitor_interval, default.container_log_monitor_interval);
        fill(
            &mut self.eviction_pressure_transition_period,
            default.eviction_pressure_transition_period,
        );
        let (tokens, rights) = (&mut self.authentication.webhook, &mut self.authorization.webhook);
        fill(&mut tokens.cache_ttl, default.authentication.webhook.cache_ttl);
        let usual = default.authorization.webhook;
        fill(&mut rights.cache_authorized_ttl, usual.cache_authorized_ttl);
        fill(&mut rights.cache_unauthorized_ttl, usual.cache_unauthorized_ttl);
    }

    fn validate_eviction(&self) -> Result<(), ConfigurationError> {
        let signal = |field: &str, name: &str| {
            let unknown = || invalid(field, format!("unknown eviction signal {name}"));
            Signal::parse(name).ok_or_else(unknown)
        };
        for (field, map) in [
            ("evictionHard", &self.eviction_hard),
            ("evictionSoft", &self.eviction_soft),
            ("evictionMinimumReclaim", &self.eviction_minimum_reclaim),
        ] {
            for (name, value) in map {
                signal(field, name)?;
                thresholds::Amount::parse(value)
                    .ok_or_else(|| invalid(field, format!("{name}: {value:?} is no threshold")))?;
            }
        }
        for name in self.eviction_soft.keys() {
            if !self.eviction_soft_grace_period.contains_key(name) {
                let reason = format!(
                    "grace period must be specified for the soft eviction threshold {name}"
                );
                return Err(invalid("evictionSoft", reason));
            }
        }
        for name in self.eviction_soft_grace_period.keys() {
            signal("evictionSoftGracePeriod", name)?;
        }
        Ok(())
    }

    fn validate_images(&self) -> Result<(), ConfigurationError> {
        let (high, low) =
            (self.image_gc_high_threshold_percent, self.image_gc_low_threshold_percent);
        if high > 100 {
            return Err(invalid("imageGCHighThresholdPercent", "must be between 0 and 100"));
        }
        if low >= high {
            let reason = format!("{low} must be less than imageGCHighThresholdPercent {high}");
            return Err(invalid("imageGCLowThresholdPercent", reason));
        }
        let (min, max) = (self.image_minimum_gc_age, self.image_maximum_gc_age);
        if !max.0.is_zero() && max <= min {
            return Err(invalid("imageMaximumGCAge", "must be greater than imageMinimumGCAge"));
        }
        match (self.max_parallel_image_pulls, self.serialize_image_pulls) {
            (Some(0), _) => Err(invalid("maxParallelImagePulls", "must be a positive number")),
            (Some(pulls), Some(true)) if pulls > 1 => Err(invalid(
                "maxParallelImagePulls",
                "cannot be larger than 1 unless serializeImagePulls is set to false",
            )),
            _ => Ok(()),
        }
    }

    fn validate_shutdown(&self) -> Result<(), ConfigurationError> {
        let (all, critical) =
            (self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        if critical > all {
            let reason = "must be <= shutdownGracePeriod";
            return Err(invalid("shutdownGracePeriodCriticalPods", reason));
        }
        for (field, time) in
            [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)]
        {
            if !time.0.is_zero() && time.0 < Duration::from_secs(1) {
                return Err(invalid(field, "must be either zero or otherwise >= 1 sec"));
            }
        }
        if !self.shutdown_grace_period_by_pod_priority.is_empty() && !all.0.is_zero() {
            let reason = "cannot be specified at the same time as shutdownGracePeriod";
            return Err(invalid("shutdownGracePeriodByPodPriority", reason));
        }
        Ok(())
    }
}
