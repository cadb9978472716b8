"""Custom resources with Kubernetes' client for Python: its dynamic client and the one for objects of
any kind."""

import yaml
from kubernetes import client, dynamic, watch
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError

from test_client import Case, eventually

GROUP = "python.example.com"


def definition(plural, kind):
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "red"},
                    "ports": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["port"],
                        "items": {
                            "type": "object",
                            "required": ["port"],
                            "properties": {
                                "port": {"type": "integer"},
                                "name": {"type": "string"},
                            },
                        },
                    },
                },
            },
            "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
        },
    }
    version = client.V1CustomResourceDefinitionVersion(
        name="v1",
        served=True,
        storage=True,
        subresources=client.V1CustomResourceSubresources(status={}),
        schema=client.V1CustomResourceValidation(open_apiv3_schema=schema),
    )
    names = client.V1CustomResourceDefinitionNames(plural=plural, kind=kind)
    spec = client.V1CustomResourceDefinitionSpec(
        group=GROUP, names=names, scope="Namespaced", versions=[version]
    )
    metadata = client.V1ObjectMeta(name=f"{plural}.{GROUP}")
    return client.V1CustomResourceDefinition(
        api_version="apiextensions.k8s.io/v1",
        kind="CustomResourceDefinition",
        metadata=metadata,
        spec=spec,
    )


class CustomObjects(Case):
    """Each test has a kind of its own, too."""

    def setUp(self):
        super().setUp()
        self.plural = self._testMethodName.replace("_", "")[:50].lower()
        self.kind = self.plural.capitalize()
        self.definitions = client.ApiextensionsV1Api()
        made = self.definitions.create_custom_resource_definition(
            definition(self.plural, self.kind)
        )
        self.name = made.metadata.name
        eventually(self.established)

    def tearDown(self):
        super().tearDown()
        self.definitions.delete_custom_resource_definition(self.name)

    def established(self):
        read = self.definitions.read_custom_resource_definition(self.name)
        conditions = (read.status and read.status.conditions) or []
        return any(it.type == "Established" and it.status == "True" for it in conditions)

    def body(self, name, **spec):
        return {
            "apiVersion": f"{GROUP}/v1",
            "kind": self.kind,
            "metadata": {"name": name},
            "spec": spec,
        }

    def test_a_dynamic_client_does_it_all(self):
        found = dynamic.DynamicClient(client.ApiClient())
        api = found.resources.get(api_version=f"{GROUP}/v1", kind=self.kind)
        self.assertTrue(api.namespaced)
        made = api.create(body=self.body("a", size=3), namespace=self.namespace)
        self.assertEqual((made.spec.size, made.spec.color), (3, "red"))
        listed = api.get(namespace=self.namespace)
        self.assertEqual([item.metadata.name for item in listed.items], ["a"])

        merge = "application/merge-patch+json"
        patched = api.patch(
            body={"spec": {"color": "blue"}},
            name="a",
            namespace=self.namespace,
            content_type=merge,
        )
        self.assertEqual((patched.spec.color, patched.metadata.generation), ("blue", 2))
        status = {"apiVersion": f"{GROUP}/v1", "kind": self.kind, "status": {"size": 3}}
        shown = api.status.patch(
            body=status, name="a", namespace=self.namespace, content_type=merge
        )
        self.assertEqual((shown.status.size, shown.metadata.generation), (3, 2))

        seen = []
        events = api.watch(
            namespace=self.namespace,
            resource_version=made.metadata.resourceVersion,
            timeout=30,
        )
        api.delete(name="a", namespace=self.namespace)
        for event in events:
            seen.append(event["type"])
            if event["type"] == "DELETED":
                break
        self.assertEqual(seen, ["MODIFIED", "MODIFIED", "DELETED"])
        with self.assertRaises(NotFoundError):
            api.get(name="a", namespace=self.namespace)

    def test_two_managers_apply(self):
        found = dynamic.DynamicClient(client.ApiClient())
        api = found.resources.get(api_version=f"{GROUP}/v1", kind=self.kind)

        def apply(manager, force=False, **spec):
            # As text: this client makes no YAML of anything else.
            return api.server_side_apply(
                body=yaml.safe_dump(self.body("a", **spec)),
                name="a",
                namespace=self.namespace,
                field_manager=manager,
                force_conflicts=force,
            )

        apply("one", size=3, ports=[{"port": 80, "name": "http"}])
        applied = apply("two", size=3, ports=[{"port": 443, "name": "https"}])
        self.assertEqual([port.port for port in applied.spec.ports], [80, 443])
        with self.assertRaises(ConflictError):
            apply("two", size=4, ports=[{"port": 443, "name": "https"}])
        applied = apply("two", force=True, size=4)
        self.assertEqual(applied.spec.size, 4)
        self.assertEqual([port.port for port in applied.spec.ports], [80])
        managers = {entry.manager for entry in applied.metadata.managedFields}
        self.assertEqual(managers, {"one", "two"})

    def test_objects_of_any_kind(self):
        objects = client.CustomObjectsApi()
        kind = (GROUP, "v1", self.namespace, self.plural)
        made = objects.create_namespaced_custom_object(*kind, self.body("a", size=1))
        self.assertEqual(made["spec"]["color"], "red")
        why = self.refused(
            422,
            "Invalid",
            objects.create_namespaced_custom_object,
            *kind,
            self.body("b", size=0),
        )
        self.assertIn("spec.size in body should be greater than or equal to 1", why["message"])
        made["spec"]["size"] = 2
        objects.replace_namespaced_custom_object(*kind, "a", made)
        self.refused(
            409, "Conflict", objects.replace_namespaced_custom_object, *kind, "a", made
        )
        stream = watch.Watch().stream(
            objects.list_namespaced_custom_object,
            *kind,
            resource_version=made["metadata"]["resourceVersion"],
            timeout_seconds=30,
        )
        event = next(iter(stream))
        self.assertEqual((event["type"], event["object"]["spec"]["size"]), ("MODIFIED", 2))
        objects.delete_namespaced_custom_object(*kind, "a")
        self.assertEqual(objects.list_namespaced_custom_object(*kind)["items"], [])
