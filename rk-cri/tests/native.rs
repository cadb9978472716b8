//! Real containers. Needs root; see `support/mod` for how a test says that it is skipped.

use async_trait::async_trait;
use rk_cri::{
    Runtime,
    images::{ImportOptions, build::busybox_image},
    native::NativeRuntime,
    runtime::*,
};
use rk_net::*;
use std::{sync::Arc, time::Duration};

#[derive(Debug)]
struct NoNet;
#[async_trait]
impl CniPlugin for NoNet {
    async fn add(&self, _: &AttachRequest) -> Result<AttachResult, CniError> {
        Ok(AttachResult::default())
    }
    async fn del(&self, _: &AttachRequest) -> Result<(), CniError> {
        Ok(())
    }
    async fn check(&self, _: &AttachRequest) -> Result<(), CniError> {
        Ok(())
    }
    async fn status(&self) -> Result<(), CniError> {
        Ok(())
    }
    async fn gc(&self, _: &[String]) -> Result<(), CniError> {
        Ok(())
    }
}

fn main() {
    rk_cri::native::init();
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let r =
            NativeRuntime::builder(dir.path().join("rt"), Arc::new(NoNet)).build().await.unwrap();
        let archive = dir.path().join("bb.tar");
        busybox_image("busybox", "/bin/busybox".as_ref()).unwrap().write_archive(&archive).unwrap();
        println!("{:?}", r.import(&archive, ImportOptions::default()).await.unwrap());
        for i in 0..5 {
            let t = std::time::Instant::now();
            let pod = r
                .run_pod_sandbox(SandboxConfig {
                    pod: PodRef { name: "p".into(), ..Default::default() },
                    hostname: "podhost".into(),
                    log_directory: dir.path().join("logs"),
                    cgroup_parent: "burstable/pod1".into(),
                    ..Default::default()
                })
                .await
                .unwrap();
            let t1 = t.elapsed();
            let c = r
                .create_container(
                    &pod,
                    ContainerConfig {
                        name: "c".into(),
                        image: "busybox".into(),
                        command: vec![
                            "sh".into(),
                            "-c".into(),
                            "hostname; id; mount | head -50; ls -la /proc/1/fd; sleep 0.2; exit 3"
                                .into(),
                        ],
                        log_path: "c.log".into(),
                        ..Default::default()
                    },
                )
                .await
                .unwrap();
            let t2 = t.elapsed();
            let s = r.start_container(&c).await;
            println!("sandbox {t1:?} create {t2:?} started {:?} {s:?}", t.elapsed());
            if i == 0 {
                println!("{:?}", r.exec_sync(&c, vec!["ps".into()], Duration::from_secs(5)).await);
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
            if i == 0 {
                println!("{:#?}", r.container_status(&c).await.unwrap());
                println!(
                    "{}",
                    std::fs::read_to_string(dir.path().join("logs/c.log")).unwrap_or_default()
                );
                println!(
                    "{}",
                    std::fs::read_to_string(dir.path().join("rt/shim.log")).unwrap_or_default()
                );
            }
            r.remove_pod_sandbox(&pod).await.unwrap();
        }
        r.teardown().await.unwrap();
        println!(
            "{:?}",
            std::process::Command::new("find")
                .arg(dir.path().join("rt"))
                .args(["-maxdepth", "2"])
                .output()
                .map(|o| String::from_utf8(o.stdout))
        );
    });
}
