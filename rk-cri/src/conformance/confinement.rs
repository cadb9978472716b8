//! Cases about what containers may do and use.

use std::path::Path;

use super::{Bench, text};
use crate::runtime::{ContainerConfig, Resources, Seccomp, Security};

impl Bench {
    fn profiled(&self, name: &str, seccomp: Seccomp) -> ContainerConfig {
        ContainerConfig {
            security: Security { seccomp, ..Security::default() },
            ..self.shell(name, "sleep 600")
        }
    }

    pub(super) async fn seccomp(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let directory = &self.kit.log_root;
        let profile = directory.join(format!("{}-no-mkdir.json", self.namespace()));
        let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
        std::fs::create_dir_all(directory).map_err(text)?;
        std::fs::write(&profile, rules).map_err(text)?;
        for (name, seccomp, expected) in [
            ("all", Seccomp::Unconfined, "0 made"),
            ("runtimes", Seccomp::RuntimeDefault, "2 made"),
            ("own", Seccomp::Localhost(profile.clone()), "2 not made"),
        ] {
            let id = self.create(&sandbox, self.profiled(name, seccomp)).await?;
            self.runtime.start_container(&id).await.map_err(text)?;
            // 0 is no filter, 2 a filter (proc_pid_status(5)); of the container, and of the command.
            let look = "mkdir /made 2>/dev/null && made=made || made='not made'; \
                        for who in 1 self; do \
                        echo $(sed -n 's/^Seccomp:\\s*//p' /proc/$who/status) $made; done";
            let output = self.exec(&id, look).await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines: Vec<&str> = said.lines().collect();
            ensure!(lines == [expected, expected], "{name}: {said} {:?}", output.stderr);
        }
        std::fs::remove_file(&profile).map_err(text)
    }

    pub(super) async fn missing_seccomp(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let seccomp = Seccomp::Localhost(Path::new("/no/such/profile.json").to_owned());
        let made = self.create(&sandbox, self.profiled("main", seccomp)).await;
        let why = made.err().ok_or("a container was made without it")?;
        ensure!(why.contains("/no/such/profile.json"), "the profile is not named: {why}");
        Ok(())
    }

    pub(super) async fn changed_limits(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let small =
            Resources { memory_limit_bytes: 64 << 20, cpu_shares: 2, ..Resources::default() };
        let config = ContainerConfig { resources: small, ..self.shell("main", "sleep 600") };
        let id = self.create(&sandbox, config).await?;
        self.runtime.start_container(&id).await.map_err(text)?;
        let started = self.status(&id).await?.started_at;
        let large = Resources { memory_limit_bytes: 96 << 20, ..Resources::default() };
        self.runtime.update_container_resources(&id, large).await.map_err(text)?;
        let status = self.status(&id).await?;
        ensure!(status.started_at == started, "it was started again");

        // Of one that has ended nothing is asked: containerd takes that, others refuse it.
        let limits = Resources { memory_limit_bytes: 64 << 20, ..Resources::default() };
        let changed = self.runtime.update_container_resources("no-such-container", limits).await;
        ensure!(changed.is_err(), "the limits of no container were changed");
        Ok(())
    }

    pub(super) async fn raised_memory(&self) -> Result<(), String> {
        let sandbox = self.sandbox("pod").await?;
        let limits = |bytes| Resources { memory_limit_bytes: bytes, ..Resources::default() };
        let config =
            ContainerConfig { resources: limits(24 << 20), ..self.shell("main", "sleep 600") };
        let id = self.create(&sandbox, config).await?;
        self.runtime.start_container(&id).await.map_err(text)?;
        // As large as one block: it is all touched.
        let use_memory = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null";
        let output = self.exec(&id, use_memory).await?;
        ensure!(output.exit_code != 0, "more than the limit could be used");
        self.runtime.update_container_resources(&id, limits(256 << 20)).await.map_err(text)?;
        let output = self.exec(&id, use_memory).await?;
        ensure!(output.exit_code == 0, "not even the new limit can be used: {output:?}");
        Ok(())
    }
}
