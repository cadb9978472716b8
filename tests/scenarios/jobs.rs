//! Section F of the scenarios: Jobs and CronJobs; and budgets for disruptions.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        a_job_of_a_cron_jobs_template_and_waiting_for_it,
        an_indexed_job_and_its_suspension,
        drain_waits_for_the_budget;
    Real:
        s148_a_job_runs_to_completion,
        s149_a_jobs_back_off_limit,
        s150_a_cron_job_each_minute;
}

fn s148_a_job_runs_to_completion(t: &Shell) {
    t.manifest("10-job-pi.yaml");
    t.ok("(timeout 60 kubectl get pod -w > watch.out 2>&1 &)");
    t.ok("sleep 1; kubectl apply -f 10-job-pi.yaml");
    t.ok("kubectl wait --for=condition=complete job/pi --timeout=55s");
    t.eventually("cat watch.out", "Completed");
    let job = t.ok("kubectl get job pi --no-headers");
    assert_eq!(rows(&job)[0][1..3], ["Complete", "1/1"], "{job}");
    let pods = t.ok("kubectl get pods -l job-name=pi --no-headers");
    assert_eq!(rows(&pods).len(), 1, "{pods}");
    assert_eq!(rows(&pods)[0][1..4], ["0/1", "Completed", "0"], "it was not restarted: {pods}");
    let log = t.ok("kubectl logs -l job-name=pi --tail=-1");
    assert!(log.starts_with("3.14159265358979323846"), "{log}");
    assert_eq!(log.trim_end().len(), 2001, "2000 digits and a point");
    let described = t.ok("kubectl describe job pi");
    for text in ["Pods Statuses:", "1 Succeeded", "SuccessfulCreate", "Completed", "Job completed"]
    {
        assert!(described.contains(text), "{text} in {described}");
    }
    t.ok("kubectl delete job pi");
    t.until("kubectl get pods --no-headers", "no pods", |out| out.trim().is_empty());
}

fn failing(name: &str, policy: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  backoffLimit: 4\n  \
         template:\n    spec:\n      restartPolicy: {policy}\n      containers:\n      - {{name: c, \
         image: busybox, command: [sh, -c, 'exit 3']}}\n"
    )
}

fn s149_a_jobs_back_off_limit(t: &Shell) {
    t.write("always.yaml", &failing("always", "Always"));
    let refused = t.fails("kubectl create -f always.yaml");
    assert!(
        refused.contains("spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""),
        "{refused}"
    );
    t.write("bad.yaml", &failing("bad", "Never"));
    t.ok("kubectl create -f bad.yaml");
    let created = "kubectl get pods -l job-name=bad -o \
                   'jsonpath={range .items[*]}{.metadata.creationTimestamp}{\"\\n\"}{end}' | sort";
    // After pauses of 10, 20, 40 and 80 seconds.
    for count in [3, 4, 5] {
        let none_more = t.until(created, "one more try", |out| out.lines().count() >= count);
        assert_eq!(none_more.lines().count(), count, "one at a time: {none_more}");
        if count == 4 {
            t.ok("sleep 40");
        }
    }
    let times = t.ok(&format!("{created} | while read time; do date -d $time +%s; done"));
    let times: Vec<i64> = times.lines().filter_map(|line| line.parse().ok()).collect();
    let pauses: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
    t.ok("kubectl wait --for=condition=failed job/bad --timeout=55s");
    let reason =
        "kubectl get job bad -o 'jsonpath={.status.conditions[?(@.type==\"Failed\")].reason}'";
    assert_eq!(t.ok(reason), "BackoffLimitExceeded");
    assert_eq!(rows(&t.ok("kubectl get job bad --no-headers"))[0][1..3], ["Failed", "0/1"]);
}

fn s150_a_cron_job_each_minute(t: &Shell) {
    t.manifest("11-cronjob-example.yaml");
    t.ok("kubectl apply -f 11-cronjob-example.yaml");
    t.ok("sleep 10");
    let started = t.until("kubectl get jobs -o name", "the first Job", |out| !out.is_empty());
    let minute = |name: &str| {
        let number = name.trim().rsplit('-').next().and_then(|text| text.parse::<i64>().ok());
        number.unwrap_or_else(|| panic!("{name}"))
    };
    t.ok("kubectl wait --for=condition=complete job --all --timeout=50s");
    let log = t.ok(&format!("kubectl logs {}", started.trim()));
    assert!(log.lines().count() == 2 && log.ends_with("Hello from k8s cluster\n"), "{log}");
    let year = t.ok("date +%Y");
    assert!(log.contains(year.trim()), "{log}");
    t.ok("sleep 10");
    let second =
        t.until("kubectl get jobs -o name", "the second Job", |out| out.lines().count() > 1);
    let minutes: Vec<i64> = second.lines().map(minute).collect();
    assert_eq!(minutes[1] - minutes[0], 1, "{second}");
    let cron = t.ok("kubectl get cronjob cronjob-example --no-headers");
    assert!(
        cron.contains("* * * * *") && cron.contains("<none>") && cron.contains("False"),
        "{cron}"
    );

    // Jobs by hand count for the history too.
    t.ok("kubectl patch cronjob cronjob-example -p '{\"spec\":{\"suspend\":true}}'");
    for number in 1..=4 {
        t.ok(&format!("kubectl create job extra-{number} --from=cronjob/cronjob-example"));
        t.ok(&format!(
            "kubectl wait --for=condition=complete job/extra-{number} --timeout=50s 2>&1 || true"
        ));
    }
    t.until("kubectl get jobs --no-headers", "the last three", |out| rows(out).len() == 3);
    t.write(
        "wrong.yaml",
        &t.ok("sed 's/\\* \\* \\* \\* \\*/61 * * * */; s/example/wrong/' 11-cronjob-example.yaml"),
    );
    let refused = t.fails("kubectl apply -f wrong.yaml");
    assert!(refused.contains("end of range (61) above maximum (59): 61"), "{refused}");
}

fn a_job_of_a_cron_jobs_template_and_waiting_for_it(t: &Shell) {
    t.ok("kubectl create cronjob nightly --image=busybox --schedule='0 3 * * *' -- sleep 1");
    t.ok("kubectl create job now --from=cronjob/nightly");
    let waited = t.ok("kubectl wait --for=condition=complete job/now --timeout=50s");
    assert_eq!(waited, "job.batch/now condition met\n");
    let manual = "kubectl get job now -o 'jsonpath={.metadata.annotations.cronjob\\.kubernetes\\.io/instantiate} {.metadata.ownerReferences[0].name}'";
    assert_eq!(t.ok(manual), "manual nightly");
    t.eventually("kubectl get events", "UnexpectedJob");
    t.ok("kubectl create job fails --image=busybox -- false");
    t.ok("kubectl patch job fails -p '{\"spec\":{\"backoffLimit\":0}}'");
    t.ok("kubectl wait --for=condition=failed job/fails --timeout=50s");
    t.ok("kubectl delete cronjob nightly");
    t.until("kubectl get jobs --no-headers", "the CronJob's Jobs gone", |out| {
        rows(out).iter().all(|row| row[0] == "fails")
    });
}

fn an_indexed_job_and_its_suspension(t: &Shell) {
    t.write(
        "indexed.yaml",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: idx}\nspec:\n  completions: 4\n  \
         parallelism: 2\n  completionMode: Indexed\n  suspend: true\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers:\n      - {name: c, image: busybox, command: [sh, -c, \
         'sleep 1; echo $JOB_COMPLETION_INDEX']}\n",
    );
    t.ok("kubectl apply -f indexed.yaml");
    t.eventually("kubectl get job idx", "Suspended");
    assert_eq!(t.ok("kubectl get pods -o name"), "");
    t.ok("kubectl patch job idx -p '{\"spec\":{\"suspend\":false}}'");
    t.ok("kubectl wait --for=condition=complete job/idx --timeout=50s");
    assert_eq!(t.ok("kubectl get job idx -o 'jsonpath={.status.completedIndexes}'"), "0-3");
    let described = t.ok("kubectl describe job idx");
    for text in ["Completion Mode:", "Indexed", "Completed Indexes:", "Suspended", "Resumed"] {
        assert!(described.contains(text), "{text} in {described}");
    }
    let logs = t.ok(
        "for i in 0 1 2 3; do kubectl logs -l batch.kubernetes.io/job-completion-index=$i; done",
    );
    assert_eq!(logs, "0\n1\n2\n3\n");
}

fn drain_waits_for_the_budget(t: &Shell) {
    t.ok("kubectl create deployment d --image=nginx --replicas=2");
    t.ok("kubectl create poddisruptionbudget d --selector=app=d --min-available=2");
    t.ok("kubectl rollout status deployment d --timeout=50s");
    t.until("kubectl get pdb d --no-headers", "no disruption allowed", |out| {
        rows(out).first().is_some_and(|row| row[3] == "0")
    });
    t.eventually("kubectl get pdb d -o yaml", "currentHealthy: 2");
    let node = t.ok("kubectl get pods -o 'jsonpath={.items[0].spec.nodeName}'");
    let drain = format!("kubectl drain {node} --pod-selector=app=d --force");
    let refused = t.sh(&format!("{drain} --timeout=8s"));
    assert_ne!(refused.code, 0, "{refused:?}");
    let why = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    assert_eq!(rows(&t.ok("kubectl get pods --no-headers")).len(), 2, "nothing was evicted");

    t.ok("kubectl scale deployment d --replicas=3");
    t.ok("kubectl rollout status deployment d --timeout=50s");
    t.until("kubectl get pdb d --no-headers", "one disruption allowed", |out| {
        rows(out).first().is_some_and(|row| row[3] != "0")
    });
    let drained = t.ok(&format!("{drain} --timeout=50s"));
    assert!(drained.contains("evicted"), "{drained}");
    t.ok(&format!("kubectl uncordon {node}"));
}
