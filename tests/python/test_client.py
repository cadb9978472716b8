"""Kubernetes' client for Python against a server whose kubeconfig is in KUBECONFIG."""

import json
import os
import tempfile
import threading
import time
import unittest

import yaml
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.utils import create_from_dict

MERGE = "application/merge-patch+json"


def config_map(name, value="v", labels=None):
    return client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name=name, labels=labels), data={"k": value}
    )


def eventually(ask, patience=30):
    """The first answer that is true."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


class Case(unittest.TestCase):
    """Each test has a namespace of its own."""

    def setUp(self):
        config.load_kube_config()
        self.core = client.CoreV1Api()
        self.namespace = self._testMethodName.replace("_", "-")[:60].strip("-")
        body = client.V1Namespace(metadata=client.V1ObjectMeta(name=self.namespace))
        self.core.create_namespace(body)

    def tearDown(self):
        self.core.delete_namespace(self.namespace)

    def create(self, name, value="v", labels=None):
        return self.core.create_namespaced_config_map(
            self.namespace, config_map(name, value, labels)
        )

    def refused(self, status, reason, call, *args, **kwargs):
        with self.assertRaises(ApiException) as caught:
            call(*args, **kwargs)
        error = caught.exception
        body = json.loads(error.body)
        self.assertEqual((error.status, body["reason"]), (status, reason))
        self.assertEqual((body["kind"], body["code"]), ("Status", status))
        return body


class Objects(Case):
    def test_objects_are_created_read_replaced_and_deleted(self):
        made = self.create("a")
        self.assertEqual(made.metadata.namespace, self.namespace)
        made.data["k"] = "changed"
        self.core.replace_namespaced_config_map("a", self.namespace, made)
        read = self.core.read_namespaced_config_map("a", self.namespace)
        self.assertEqual(read.data, {"k": "changed"})
        self.assertEqual(read.metadata.uid, made.metadata.uid)
        status = self.core.delete_namespaced_config_map("a", self.namespace)
        self.assertEqual(status.status, "Success")
        listed = self.core.list_namespaced_config_map(self.namespace, label_selector="x")
        self.assertEqual(listed.items, [])

    def test_patches_of_all_types(self):
        self.create("a")
        patch = self.core.patch_namespaced_config_map
        patched = patch("a", self.namespace, {"data": {"strategic": "1"}})
        self.assertEqual(patched.data, {"k": "v", "strategic": "1"})
        operations = [{"op": "replace", "path": "/data/k", "value": "json"}]
        self.assertEqual(patch("a", self.namespace, operations).data["k"], "json")
        api = client.ApiClient()
        api.set_default_header("Content-Type", MERGE)
        merged = client.CoreV1Api(api).patch_namespaced_config_map(
            "a", self.namespace, {"data": {"strategic": None}}
        )
        self.assertEqual(merged.data, {"k": "json"})
        wrong = [{"op": "test", "path": "/data/k", "value": "other"}]
        self.refused(422, "Invalid", patch, "a", self.namespace, wrong)

    def test_a_deployment_is_scaled_and_its_status_read(self):
        apps = client.AppsV1Api()
        template = client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(labels={"app": "web"}),
            spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="nginx")]),
        )
        spec = client.V1DeploymentSpec(
            replicas=1,
            selector=client.V1LabelSelector(match_labels={"app": "web"}),
            template=template,
        )
        body = client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec)
        apps.create_namespaced_deployment(self.namespace, body)
        apps.patch_namespaced_deployment_scale("web", self.namespace, {"spec": {"replicas": 3}})
        scale = apps.read_namespaced_deployment_scale("web", self.namespace)
        self.assertEqual((scale.spec.replicas, scale.status.selector), (3, "app=web"))
        read = lambda: apps.read_namespaced_deployment_status("web", self.namespace)
        eventually(lambda: read().status.available_replicas == 3)
        pods = self.core.list_namespaced_pod(self.namespace, label_selector="app=web").items
        self.assertEqual({pod.status.phase for pod in pods}, {"Running"})
        self.assertTrue(all(pod.metadata.creation_timestamp.tzinfo for pod in pods))
        options = client.V1DeleteOptions(propagation_policy="Foreground")
        apps.delete_namespaced_deployment("web", self.namespace, body=options)
        eventually(lambda: not self.core.list_namespaced_pod(self.namespace).items)

    def test_manifests_are_created_from_dicts(self):
        manifest = yaml.safe_load(
            "{apiVersion: v1, kind: List, items: ["
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}},"
            "{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {template: {spec: "
            "{restartPolicy: Never, containers: [{name: c, image: busybox}]}}}}]}"
        )
        create_from_dict(client.ApiClient(), manifest, namespace=self.namespace)
        secret = self.core.read_namespaced_secret("s", self.namespace)
        self.assertEqual((secret.type, secret.data), ("Opaque", {"a": "Yg=="}))
        job = client.BatchV1Api().read_namespaced_job("j", self.namespace)
        self.assertEqual((job.spec.completions, job.spec.backoff_limit), (1, 6))

    def test_a_collection_is_deleted_by_its_label(self):
        for name in "abc":
            self.create(name, labels={"go": "yes" if name != "b" else "no"})
        self.core.delete_collection_namespaced_config_map(
            self.namespace, label_selector="go=yes"
        )
        left = self.core.list_namespaced_config_map(self.namespace, label_selector="go")
        self.assertEqual([item.metadata.name for item in left.items], ["b"])

    def test_a_dry_run_stores_nothing(self):
        self.core.create_namespaced_config_map(
            self.namespace, config_map("a"), dry_run="All"
        )
        self.refused(
            404, "NotFound", self.core.read_namespaced_config_map, "a", self.namespace
        )


class Failures(Case):
    def test_failures_have_their_status_reason_and_body(self):
        read = self.core.read_namespaced_config_map
        body = self.refused(404, "NotFound", read, "nosuch", self.namespace)
        self.assertEqual(body["message"], 'configmaps "nosuch" not found')
        self.assertEqual(body["details"], {"name": "nosuch", "kind": "configmaps"})
        made = self.create("a")
        self.refused(409, "AlreadyExists", self.create, "a")
        replace = self.core.replace_namespaced_config_map
        made.metadata.resource_version = "1"
        self.refused(409, "Conflict", replace, "a", self.namespace, made)
        body = self.refused(422, "Invalid", self.create, "UPPER")
        self.assertEqual(body["details"]["causes"][0]["field"], "metadata.name")
        listing = self.core.list_namespaced_config_map
        self.refused(400, "BadRequest", listing, self.namespace, label_selector="a b")
        self.refused(400, "BadRequest", listing, self.namespace, field_selector="data.k=v")

    def test_who_may_not_is_told_so(self):
        api = client.ApiClient()
        api.set_default_header("Impersonate-User", "jane")
        core = client.CoreV1Api(api)
        body = self.refused(403, "Forbidden", core.list_namespaced_pod, self.namespace)
        self.assertIn('User "jane" cannot list resource "pods"', body["message"])
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(
                resource_attributes=client.V1ResourceAttributes(
                    verb="list", resource="pods", namespace=self.namespace
                )
            )
        )
        authorization = client.AuthorizationV1Api
        allowed = lambda api: (
            authorization(api).create_self_subject_access_review(review).status.allowed
        )
        self.assertEqual((allowed(api), allowed(client.ApiClient())), (False, True))


class Lists(Case):
    def names(self, items):
        names = [item.metadata.name for item in items]
        return [name for name in names if name != "kube-root-ca.crt"]

    def test_a_list_comes_page_by_page(self):
        for number in range(7):
            self.create(f"m{number}", labels={"page": "yes"})
        seen, token, version = [], None, None
        while True:
            page = self.core.list_namespaced_config_map(
                self.namespace, limit=3, _continue=token
            )
            seen += self.names(page.items)
            version = version or page.metadata.resource_version
            self.assertEqual(page.metadata.resource_version, version)
            token = page.metadata._continue
            if not token:
                break
            self.assertGreater(page.metadata.remaining_item_count, 0)
        self.assertEqual(seen, [f"m{number}" for number in range(7)])

    def test_selectors_choose(self):
        self.create("a", labels={"tier": "front"})
        self.create("b", labels={"tier": "back"})
        listing = lambda **kwargs: self.names(
            self.core.list_namespaced_config_map(self.namespace, **kwargs).items
        )
        self.assertEqual(listing(label_selector="tier in (front, middle)"), ["a"])
        self.assertEqual(listing(label_selector="tier,tier!=front"), ["b"])
        self.assertEqual(listing(field_selector="metadata.name=b"), ["b"])
        self.assertEqual(listing(resource_version="0", label_selector="tier"), ["a", "b"])

    def test_a_watch_tells_every_change(self):
        begin = self.core.list_namespaced_config_map(self.namespace).metadata.resource_version
        self.create("a", labels={"w": "1"})
        body = {"data": {"k": "2"}}
        self.core.patch_namespaced_config_map("a", self.namespace, body)
        self.core.delete_namespaced_config_map("a", self.namespace)
        stream = watch.Watch().stream(
            self.core.list_namespaced_config_map,
            self.namespace,
            label_selector="w=1",
            resource_version=begin,
            timeout_seconds=1,
        )
        events = [(event["type"], event["object"].data["k"]) for event in stream]
        self.assertEqual(events, [("ADDED", "v"), ("MODIFIED", "2"), ("DELETED", "2")])

    def test_a_watch_goes_on_where_it_was(self):
        first = self.create("a", labels={"w": "1"})
        watcher = watch.Watch()
        threading.Timer(1.5, lambda: self.create("b", labels={"w": "1"})).start()
        begin = first.metadata.resource_version
        names = []
        # Without a limit of time the client connects again by itself, from what it saw last.
        for event in watcher.stream(
            self.core.list_namespaced_config_map,
            self.namespace,
            label_selector="w=1",
            resource_version=begin,
            _request_timeout=30,
        ):
            names.append(event["object"].metadata.name)
            watcher.stop()
        self.assertEqual(names, ["b"])
        self.assertGreater(int(watcher.resource_version), int(begin))

    def test_a_watch_from_a_version_that_is_gone_says_410(self):
        # The history has a bound: these make the first version fall out of it.
        big = "x" * 900_000
        self.create("big")
        for number in range(60):
            body = {"data": {"big": big, "number": str(number)}}
            self.core.patch_namespaced_config_map("big", self.namespace, body)
        with self.assertRaises(ApiException) as caught:
            stream = watch.Watch().stream(
                self.core.list_namespaced_config_map,
                self.namespace,
                resource_version="1",
                timeout_seconds=5,
            )
            list(stream)
        self.assertEqual(caught.exception.status, 410)
        self.assertIn("Expired: too old resource version", caught.exception.reason)


class Dynamic(Case):
    def setUp(self):
        super().setUp()
        self.dynamic = DynamicClient(client.ApiClient())

    def test_kinds_are_found_by_discovery(self):
        maps = self.dynamic.resources.get(api_version="v1", kind="ConfigMap")
        self.assertEqual((maps.name, maps.namespaced), ("configmaps", True))
        self.assertIn("cm", maps.short_names)
        deployments = self.dynamic.resources.get(group="apps", kind="Deployment")
        self.assertEqual(deployments.group_version, "apps/v1")
        self.assertIn("scale", deployments.subresources)
        made = maps.create(
            body={"metadata": {"name": "a"}, "data": {"k": "v"}}, namespace=self.namespace
        )
        self.assertEqual(made.data.k, "v")
        listed = maps.get(namespace=self.namespace, field_selector="metadata.name=a")
        self.assertEqual([item.metadata.name for item in listed.items], ["a"])
        seen = maps.watch(namespace=self.namespace, resource_version="0", timeout=1)
        self.assertIn("a", {event["object"].metadata.name for event in seen})
        maps.delete(name="a", namespace=self.namespace)

    def test_objects_are_applied_by_the_server(self):
        maps = self.dynamic.resources.get(api_version="v1", kind="ConfigMap")

        def apply(manager, data, **kwargs):
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "a", "namespace": self.namespace},
                "data": data,
            }
            # As text: this client makes no YAML of anything else.
            return maps.server_side_apply(
                body=yaml.safe_dump(body),
                name="a",
                namespace=self.namespace,
                field_manager=manager,
                **kwargs,
            )

        apply("one", {"k": "1", "own": "x"})
        body = self.refused(409, "Conflict", apply, "two", {"k": "2"})
        self.assertEqual(body["details"]["causes"][0]["field"], ".data.k")
        self.assertEqual(apply("two", {"k": "2"}, force_conflicts=True).data.k, "2")
        # What nobody applies any more is gone.
        self.assertEqual(apply("one", {"k": "2"}).to_dict()["data"], {"k": "2"})
        fields = maps.get(name="a", namespace=self.namespace).metadata.managedFields
        self.assertEqual({(f.manager, f.operation) for f in fields},
                         {("one", "Apply"), ("two", "Apply")})

    def test_custom_resources_come_and_go(self):
        group = f"{self.namespace}.example.com"
        definitions = self.dynamic.resources.get(
            api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition"
        )
        schema = {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["size"],
                    "properties": {
                        "size": {"type": "integer", "minimum": 1},
                        "color": {"type": "string", "default": "red"},
                    },
                }
            },
        }
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"widgets.{group}"},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
                "versions": [
                    {
                        "name": "v1",
                        "served": True,
                        "storage": True,
                        "schema": {"openAPIV3Schema": schema},
                        "subresources": {"status": {}},
                    }
                ],
            },
        }
        definitions.create(body=definition)

        def established():
            found = definitions.get(name=f"widgets.{group}").to_dict()
            conditions = found.get("status", {}).get("conditions", [])
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        eventually(established)
        # A new client: this one has cached what there was before.
        dynamic = DynamicClient(client.ApiClient())
        widgets = dynamic.resources.get(api_version=f"{group}/v1", kind="Widget")

        def widget(name, size):
            return {
                "apiVersion": f"{group}/v1",
                "kind": "Widget",
                "metadata": {"name": name},
                "spec": {"size": size},
            }

        eventually(lambda: widgets.get(namespace=self.namespace) is not None)
        made = widgets.create(body=widget("one", 3), namespace=self.namespace)
        self.assertEqual((made.spec.size, made.spec.color), (3, "red"))
        body = self.refused(
            422, "Invalid", widgets.create, body=widget("none", 0), namespace=self.namespace
        )
        self.assertEqual(body["details"]["causes"][0]["field"], "spec.size")
        patched = widgets.patch(
            name="one",
            namespace=self.namespace,
            body={"spec": {"color": "blue"}},
            content_type=MERGE,
        )
        self.assertEqual(patched.spec.color, "blue")
        custom = client.CustomObjectsApi()
        listed = custom.list_namespaced_custom_object(group, "v1", self.namespace, "widgets")
        self.assertEqual([item["metadata"]["name"] for item in listed["items"]], ["one"])
        definitions.delete(name=f"widgets.{group}")
        eventually(
            lambda: not [d for d in definitions.get().items if d.spec.group == group]
        )


class Access(Case):
    def test_a_kubeconfig_has_a_certificate_or_a_token(self):
        with open(os.environ["KUBECONFIG"]) as file:
            loaded = yaml.safe_load(file)
        self.assertIn("client-certificate-data", loaded["users"][0]["user"])
        contexts, active = config.list_kube_config_contexts()
        self.assertIn(active, contexts)

        self.core.create_namespaced_service_account(
            self.namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot"))
        )
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
        )
        answer = self.core.create_namespaced_service_account_token(
            "robot", self.namespace, request
        )
        loaded["users"][0]["user"] = {"token": answer.status.token}
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(loaded, file)
            file.flush()
            api = config.new_client_from_config(config_file=file.name)
        review = client.AuthorizationV1Api(api).create_self_subject_access_review(
            client.V1SelfSubjectAccessReview(
                spec=client.V1SelfSubjectAccessReviewSpec(
                    non_resource_attributes=client.V1NonResourceAttributes(
                        path="/version", verb="get"
                    )
                )
            )
        )
        self.assertTrue(review.status.allowed)
        body = self.refused(
            403, "Forbidden", client.CoreV1Api(api).list_namespaced_secret, self.namespace
        )
        self.assertIn(f"system:serviceaccount:{self.namespace}:robot", body["message"])

    def test_a_token_that_is_wrong_is_refused(self):
        loaded = client.Configuration.get_default_copy()
        loaded.cert_file = loaded.key_file = None
        loaded.api_key = {"authorization": "Bearer nonsense"}
        core = client.CoreV1Api(client.ApiClient(loaded))
        self.refused(401, "Unauthorized", core.list_namespace)


class Leaders(Case):
    def test_one_leads_until_it_stops(self):
        led, done = [], threading.Event()

        def candidate(name):
            lock = ConfigMapLock("lock", self.namespace, name)
            election = electionconfig.Config(
                lock,
                lease_duration=3,
                renew_deadline=2,
                retry_period=1,
                onstarted_leading=lambda: led.append(name),
                onstopped_leading=done.set,
            )
            runner = leaderelection.LeaderElection(election)
            threading.Thread(target=runner.run, daemon=True).start()
            return lock

        first = candidate("first")
        eventually(lambda: led == ["first"])
        candidate("second")
        time.sleep(2)
        self.assertEqual(led, ["first"])
        # The first one cannot renew any more.
        first.get = lambda *args: (True, None)
        first.update = lambda *args: False
        eventually(lambda: led == ["first", "second"])
        self.assertTrue(done.is_set())


if __name__ == "__main__":
    unittest.main()
