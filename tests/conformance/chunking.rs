//! Lists in chunks, also when the version that they began with is no longer kept.

use std::sync::Arc;

use rk::{
    api::server::ApiServer,
    k8s_openapi::api::core::v1::PodTemplate,
    kube::{
        Api, ResourceExt,
        api::{DeleteParams, ListParams, PostParams},
    },
    store::{EmbeddedStore, Store},
};
use serde_json::json;

use crate::cluster::from_json;

const TEMPLATES: usize = 400;

async fn templates(server: &ApiServer) -> Api<PodTemplate> {
    let api: Api<PodTemplate> = Api::default_namespaced(server.client());
    for number in 0..TEMPLATES {
        let template = from_json(json!({
            "metadata": {"name": format!("template-{number:04}")},
            "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}},
        }));
        api.create(&PostParams::default(), &template).await.expect("created");
    }
    api
}

fn limited(limit: usize, token: Option<&str>) -> ListParams {
    let params = ListParams::default().limit(limit as u32);
    token.map_or(params.clone(), |token| params.continue_token(token))
}

// Conformance: API Chunking, server should return chunks of results for list calls
#[tokio::test]
async fn a_list_comes_in_chunks_of_one_version() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store).start().await.expect("it starts");
    let api = templates(&server).await;
    for limit in [1, 57, 399, 400, 401] {
        let (mut token, mut version, mut found) = (None, None, 0);
        loop {
            let page = api.list(&limited(limit, token.as_deref())).await.expect("listed");
            assert!(page.items.len() <= limit);
            let at = version.get_or_insert(page.metadata.resource_version.clone());
            assert_eq!(*at, page.metadata.resource_version);
            for template in &page.items {
                assert_eq!(template.name_any(), format!("template-{found:04}"));
                found += 1;
            }
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            let remaining = page.metadata.remaining_item_count.unwrap_or(0) as usize;
            assert_eq!(remaining, TEMPLATES - found);
            if token.is_none() {
                break;
            }
        }
        assert_eq!(found, TEMPLATES);
    }
    let all = api.list(&ListParams::default()).await.expect("listed");
    assert_eq!(all.items.len(), TEMPLATES);
}

// Conformance: API Chunking, server should support continue listing from the last key even if the original version has been compacted away
#[tokio::test]
async fn a_list_goes_on_when_its_version_is_compacted_away() {
    let store = Arc::new(EmbeddedStore::in_memory());
    let server = ApiServer::builder(store.clone()).start().await.expect("it starts");
    let api = templates(&server).await;
    let limit = TEMPLATES / 10;
    let first = api.list(&limited(limit, None)).await.expect("listed");
    let token = first.metadata.continue_.expect("a token");
    let remaining = first.metadata.remaining_item_count.expect("how many remain");
    assert_eq!(first.items.len() + remaining as usize, TEMPLATES);

    // A write of its kind and a compaction: its version can be shown no more.
    api.delete("template-0000", &DeleteParams::default()).await.expect("deleted");
    let latest = store.revision().await.expect("a revision");
    store.compact(latest).await.expect("compacted");
    let path = "/api/v1/namespaces/default/podtemplates";
    let request = http::Request::get(format!("{path}?limit={limit}&continue={token}"));
    let response = server.client().send(request.body(Vec::new().into()).expect("a request")).await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 410);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
    let status: serde_json::Value = serde_json::from_slice(&body.to_bytes()).expect("a status");
    assert_eq!(status["reason"], "Expired");
    let inconsistent = status["metadata"]["continue"].as_str().expect("a token to go on with");

    let mut page = api.list(&limited(limit, Some(inconsistent))).await.expect("listed");
    let version = page.metadata.resource_version.clone();
    assert_ne!(version, first.metadata.resource_version);
    assert_eq!(page.items.len(), limit);
    let mut found = limit;
    loop {
        for template in &page.items {
            assert_eq!(template.name_any(), format!("template-{found:04}"));
            found += 1;
        }
        let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else { break };
        page = api.list(&limited(limit, Some(&token))).await.expect("listed");
        // From here on the chunks are of one version again.
        assert_eq!(page.metadata.resource_version, version);
    }
    assert_eq!(found, TEMPLATES);
}
