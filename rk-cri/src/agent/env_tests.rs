use serde_json::{Value, json};

use super::*;

fn container(value: Value) -> Container {
    let mut container = json!({"name": "c", "image": "i"});
    for (key, item) in value.as_object().unwrap() {
        container[key] = item.clone();
    }
    serde_json::from_value(container).unwrap()
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "team", "uid": "u",
            "labels": {"app": "web"}, "annotations": {"a/b": "c"}},
        "spec": {"containers": [], "serviceAccountName": "builder"},
    }))
    .unwrap()
}

fn referenced() -> Referenced {
    let map: ConfigMap =
        serde_json::from_value(json!({"data": {"COLOUR": "blue", "SIZE": "9"}})).unwrap();
    let secret: Secret =
        serde_json::from_value(json!({"data": {"password": "aHVudGVyMg=="}})).unwrap();
    Referenced {
        config_maps: [("settings".to_string(), map.into())].into(),
        secrets: [("keys".to_string(), secret.into())].into(),
    }
}

fn of(value: Value) -> Result<Vec<String>, String> {
    let (pod, ips) = (pod(), ["10.0.0.5".parse().unwrap()]);
    let facts = Facts {
        pod: &pod,
        node_name: "n1",
        host_ips: &["192.168.0.1".parse().unwrap()],
        pod_ips: &ips,
        allocatable: (4000, 8 << 30),
    };
    let services = [("DB_SERVICE_HOST".to_string(), "10.96.0.9".to_string())];
    let env = environment(&container(value), &facts, &referenced(), &services)?;
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

#[test]
fn references_to_variables_are_expanded() {
    let env = [("A", "1"), ("B", "two")].map(|(k, v)| (k.to_string(), v.to_string()));
    for (text, expected) in [
        ("$(A)-$(B)", "1-two"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("100$$", "100$"),
    ] {
        assert_eq!(expand_all(Some(&[text.to_string()]), &env), [expected], "{text}");
    }
}

#[test]
fn later_sources_replace_earlier_ones() {
    let env = of(json!({
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"prefix": "K_", "secretRef": {"name": "keys"}}],
        "env": [
            {"name": "COLOUR", "value": "red"},
            {"name": "LINE", "value": "$(COLOUR) $(K_password) $(DB_SERVICE_HOST) $(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "EMPTY"},
        ],
    }));
    assert_eq!(
        env.unwrap(),
        [
            "DB_SERVICE_HOST=10.96.0.9",
            "COLOUR=red",
            "SIZE=9",
            "K_password=hunter2",
            "LINE=red hunter2 10.96.0.9 $(LATER)",
            "LATER=x",
            "EMPTY=",
        ]
    );
}

#[test]
fn what_is_missing_is_an_error_unless_it_is_optional() {
    let key = |name: &str, key: &str, optional: bool| {
        let reference = json!({"name": name, "key": key, "optional": optional});
        of(json!({"env": [{"name": "X", "valueFrom": {"configMapKeyRef": reference}}]}))
    };
    assert_eq!(key("nope", "SIZE", false).unwrap_err(), "configmap \"nope\" not found");
    assert_eq!(
        key("settings", "nope", false).unwrap_err(),
        "couldn't find key nope in ConfigMap team/settings"
    );
    assert_eq!(key("nope", "SIZE", true).unwrap(), ["DB_SERVICE_HOST=10.96.0.9"]);
    assert_eq!(key("settings", "SIZE", false).unwrap()[1], "X=9");
    let from = of(json!({"envFrom": [{"secretRef": {"name": "nope"}}]}));
    assert_eq!(from.unwrap_err(), "secret \"nope\" not found");
}

#[test]
fn fields_and_resources_of_the_pod_can_be_asked_for() {
    let field = |path: &str| json!({"name": path, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let resource =
        |name: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": name}}});
    let env = of(json!({
        "resources": {"limits": {"cpu": "1500m"}},
        "env": [
            field("metadata.name"), field("metadata.labels['app']"), field("metadata.annotations['a/b']"),
            field("spec.nodeName"), field("spec.serviceAccountName"), field("status.podIP"), field("status.hostIP"),
            resource("limits.cpu"), resource("limits.memory"), resource("requests.cpu"),
        ],
    }));
    assert_eq!(
        env.unwrap()[1..],
        [
            "metadata.name=p",
            "metadata.labels['app']=web",
            "metadata.annotations['a/b']=c",
            "spec.nodeName=n1",
            "spec.serviceAccountName=builder",
            "status.podIP=10.0.0.5",
            "status.hostIP=192.168.0.1",
            "limits.cpu=2",
            "limits.memory=8589934592",
            "requests.cpu=0",
        ]
    );
}

#[test]
fn services_become_variables() {
    let service = |name: &str, namespace: &str, ip: &str| -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "main-port", "port": 6379, "protocol": "TCP"}]},
        }))
        .unwrap()
    };
    let services = [
        service("kubernetes", "default", "10.96.0.1"),
        service("redis-master", "team", "10.96.0.11"),
        service("headless", "team", "None"),
        service("other", "elsewhere", "10.96.0.12"),
    ];
    let names = |links: bool| -> Vec<String> {
        let variables = service_variables(&services, "team", links);
        variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    };
    let expected = [
        "REDIS_MASTER_SERVICE_HOST=10.96.0.11",
        "REDIS_MASTER_SERVICE_PORT=6379",
        "REDIS_MASTER_SERVICE_PORT_MAIN_PORT=6379",
        "REDIS_MASTER_PORT=tcp://10.96.0.11:6379",
        "REDIS_MASTER_PORT_6379_TCP=tcp://10.96.0.11:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO=tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT=6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR=10.96.0.11",
    ];
    assert_eq!(names(true)[7 + 1..], expected);
    assert!(names(false).iter().all(|line| line.starts_with("KUBERNETES_")));
}
