//! Logs, attach, exec and port forwarding.

use std::{fs, time::Duration};

use rk_cri::{
    Runtime,
    runtime::{ContainerConfig, ExecRequest},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::lab::{Lab, PATIENCE, eventually, log_text, shell};

/// Reads until `wanted` has come.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), wanted: &str) -> String {
    let mut all = String::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !all.contains(wanted) {
            let length = stream.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "ended after {all:?}");
            all += &String::from_utf8_lossy(&buffer[..length]);
        }
    };
    let waited = timeout(PATIENCE, read).await;
    assert!(waited.is_ok(), "{wanted:?} did not come, only {all:?}");
    all
}

pub async fn output_is_logged_line_by_line_with_its_stream(lab: &mut Lab) {
    let script = "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end";
    let id = lab.running(script).await;
    let status = lab.ended(&id).await;
    let log = fs::read_to_string(&status.log_path).unwrap();
    let mut entries: Vec<(&str, &str, usize)> = log
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.splitn(4, ' ').collect();
            fields[0].parse::<rk_api::types::jiff::Timestamp>().unwrap();
            (fields[1], fields[2], fields[3].len())
        })
        .collect();
    entries.sort();
    assert_eq!(
        entries,
        [
            ("stderr", "F", 3),
            ("stdout", "F", 3),
            ("stdout", "F", 20000 - 16384),
            ("stdout", "P", 3),
            ("stdout", "P", 16384),
        ]
    );
}

pub async fn attach_carries_input_and_output(lab: &mut Lab) {
    let sandbox = lab.sandbox("pod").await;
    let config = ContainerConfig {
        stdin: true,
        stdin_once: true,
        ..shell("main", "while read line; do echo got $line; echo to-err >&2; done; exit 5")
    };
    let id = lab.start(&sandbox, config).await;
    let mut session = lab.runtime().attach(&id).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let mut stderr = session.stderr.take().unwrap();

    stdin.write_all(b"hello\n").await.unwrap();
    assert_eq!(read_until(&mut stdout, "\n").await, "got hello\n");
    assert_eq!(read_until(&mut stderr, "\n").await, "to-err\n");

    // The first writer's end is the end of its input.
    drop(stdin);
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), 5);
    assert_eq!(lab.ended(&id).await.exit_code, Some(5));
}

pub async fn a_container_with_a_terminal_has_one(lab: &mut Lab) {
    let sandbox = lab.sandbox("pod").await;
    let config =
        ContainerConfig { command: vec!["sh".into()], stdin: true, tty: true, ..shell("main", "") };
    let id = lab.start(&sandbox, config).await;
    let mut session = lab.runtime().attach(&id).await.unwrap();
    assert!(session.stderr.is_none());
    let mut stdin = session.stdin.take().unwrap();
    let mut stdout = session.stdout.take().unwrap();
    (session.resize.as_ref().unwrap())(100, 30);
    let size = eventually(|| async {
        let text = lab.says(&id, "stty size < /proc/1/fd/0").await;
        (text == "30 100").then_some(text)
    });
    size.await;
    stdin.write_all(b"tty; echo $((6*7))\n").await.unwrap();
    let text = read_until(&mut stdout, "42").await;
    assert!(text.contains("/dev/console") || text.contains("/dev/pts/0"), "{text}");
    drop((stdin, stdout));
    drop(session);
    // It goes on without anybody attached.
    let mut session = lab.runtime().attach(&id).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"exit 3\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), 3);
    assert!(log_text(&lab.ended(&id).await.log_path).contains("42"));

    // Without input a shell ends at once.
    let config = ContainerConfig { command: vec!["sh".into()], ..shell("other", "") };
    let id = lab.start(&sandbox, config).await;
    assert_eq!(lab.ended(&id).await.exit_code, Some(0));
}

pub async fn a_command_with_a_terminal_has_one_of_its_size(lab: &mut Lab) {
    let id = lab.running("sleep 600").await;
    let request = ExecRequest { command: vec!["sh".into()], stdin: true, tty: true };
    let mut session = lab.runtime().exec(&id, request).await.unwrap();
    (session.resize.as_ref().unwrap())(120, 40);
    let mut stdin = session.stdin.take().unwrap();
    let mut stdout = session.stdout.take().unwrap();
    stdin.write_all(b"stty size; tty; echo $TERM; exit 9\n").await.unwrap();
    let text = read_until(&mut stdout, "xterm").await;
    assert!(text.contains("40 120") && text.contains("/dev/pts/"), "{text}");
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), 9);

    // Without a terminal, the streams are apart and input ends.
    let command = ["sh", "-c", "cat; echo err >&2; exit 4"].map(str::to_owned).to_vec();
    let request = ExecRequest { command, stdin: true, tty: false };
    let mut session = lab.runtime().exec(&id, request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"through").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((&*out, &*err), ("through", "err\n"));
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), 4);

    // Nothing of the supervisor's is open in it.
    // `ls` itself holds the folder that it lists.
    assert_eq!(lab.says(&id, "ls /proc/self/fd").await, "0\n1\n2\n3");
    assert_eq!(lab.says(&id, "ls /proc/1/fd").await, "0\n1\n2");

    let missing = lab.runtime().exec_sync(&id, vec!["nosuch".into()], PATIENCE).await.unwrap_err();
    assert!(missing.to_string().contains("executable file not found in $PATH"), "{missing}");
}

pub async fn a_dropped_session_ends_its_command(lab: &mut Lab) {
    let id = lab.running("sleep 600").await;
    for tty in [false, true] {
        let command = vec!["sleep".into(), "777".into()];
        let request = ExecRequest { command, stdin: false, tty };
        let session = lab.runtime().exec(&id, request).await.unwrap();
        assert!(lab.says(&id, "ps -o args").await.contains("sleep 777"));
        drop(session);
        eventually(|| async {
            (!lab.says(&id, "ps -o args").await.contains("sleep 777")).then_some(())
        })
        .await;
    }
    let slow = vec!["sleep".into(), "778".into()];
    let error = lab.runtime().exec_sync(&id, slow, Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, rk_cri::RuntimeError::Timeout(_)), "{error:?}");
    eventually(|| async {
        (!lab.says(&id, "ps -o args").await.contains("sleep 778")).then_some(())
    })
    .await;
}

pub async fn a_slow_reader_does_not_stop_the_container(lab: &mut Lab) {
    let script = "read go; i=0; while [ $i -lt 300 ]; do head -c 16000 /dev/zero | tr '\\0' y; echo; i=$((i+1)); done; exit 6";
    let sandbox = lab.sandbox("pod").await;
    let config = ContainerConfig { stdin: true, ..shell("main", script) };
    let id = lab.start(&sandbox, config).await;
    let mut session = lab.runtime().attach(&id).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    // Nobody reads the session's output.
    assert_eq!(lab.ended(&id).await.exit_code, Some(6));
    let text = log_text(&lab.status(&id).await.log_path);
    assert_eq!(text.matches('y').count(), 300 * 16000);
}

pub async fn a_port_of_the_pod_is_forwarded(lab: &mut Lab) {
    let id = lab.running("echo hello > /tmp/x; exec httpd -f -p 127.0.0.1:7000 -h /tmp").await;
    let sandbox = lab.status(&id).await.sandbox_id;
    let mut stream =
        eventually(|| async { lab.runtime().port_forward(&sandbox, 7000).await.ok() }).await;
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "hello").await.contains("200 OK"));
    drop(stream);
    let error = lab.runtime().port_forward(&sandbox, 7001).await.err().unwrap();
    assert!(error.to_string().contains("7001"), "{error}");

    // A probe reaches the pod through the node's network.
    let id = lab.running("exec httpd -f -p 7000 -h /tmp").await;
    let sandbox = lab.status(&id).await.sandbox_id;
    let pods = lab.runtime().list_pod_sandboxes().await.unwrap();
    let ip = pods.iter().find(|pod| pod.id == sandbox).unwrap().ips[0];
    eventually(|| async { lab.runtime().dial((ip, 7000).into()).await.ok() }).await;
}
