//! What a client of a component sees, with a server that counts what it hears.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use futures::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;

type Answer = Response<StreamBody<futures::stream::BoxStream<'static, Frame>>>;
type Frame = Result<http_body::Frame<bytes::Bytes>, Infallible>;

/// A server that answers with one piece, and to a watch with one each second without end.
async fn server(heard: Arc<AtomicU64>, request: Request<Body>) -> Result<Answer, Infallible> {
    heard.fetch_add(1, Relaxed);
    let piece = || Ok(http_body::Frame::data(bytes::Bytes::from_static(b"{}")));
    let watch = request.uri().query() == Some("watch=true");
    let body: futures::stream::BoxStream<'static, Frame> = if watch {
        Box::pin(futures::stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((piece(), ()))
        }))
    } else {
        Box::pin(futures::stream::iter([piece()]))
    };
    Ok(Response::new(StreamBody::new(body)))
}

struct Asked {
    faults: Faults,
    heard: Arc<AtomicU64>,
}

impl Asked {
    fn with(rates: Rates) -> Self {
        let faults = Faults::new(Plan::new(1).all_along(rates));
        Self { faults, heard: Arc::default() }
    }

    async fn ask(&self, target: &str) -> Result<Response<body::FaultBody>, tower::BoxError> {
        let heard = self.heard.clone();
        let inner = service_fn(move |request| server(heard.clone(), request));
        let mut client = self.faults.layer("me").layer(inner);
        let request = Request::get(target).body(Body::empty()).unwrap();
        client.ready().await?.call(request).await
    }

    fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_never_heard_and_a_lost_answer_was() {
    let lost = Asked::with(Rates { lose_request: 1.0, ..Rates::none() });
    assert!(lost.ask("/").await.is_err());
    assert_eq!(lost.heard(), 0);

    let unanswered = Asked::with(Rates { lose_answer: 1.0, ..Rates::none() });
    assert!(unanswered.ask("/").await.is_err());
    assert_eq!(unanswered.heard(), 1);
    assert_eq!(unanswered.faults.counts().answers_lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_a_status_and_a_duplicate_is_heard_twice() {
    let failing = Asked::with(Rates { fail: 1.0, ..Rates::none() });
    let answer = failing.ask("/").await.unwrap();
    assert!(answer.status().is_client_error() || answer.status().is_server_error());
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status["kind"].as_str(), status["code"].as_u64()),
        (Some("Status"), Some(code.into()))
    );
    assert_eq!(failing.heard(), 0);

    let twice = Asked::with(Rates { duplicate: 1.0, ..Rates::none() });
    assert_eq!(twice.ask("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(twice.heard(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_times_out() {
    let hanging = Asked::with(Rates { hang: 1.0, ..Rates::none() });
    let begun = Instant::now();
    assert_eq!(hanging.ask("/").await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(begun.elapsed() >= Rates::none().hang_for);
}

#[tokio::test(start_paused = true)]
async fn later_requests_overtake_a_delayed_one() {
    let slow = Asked::with(Rates { delay: 1.0, ..Rates::none() });
    let delays: Vec<_> = futures::stream::StreamExt::collect(
        (0..8)
            .map(|number| slow.ask("/").map(move |_| number))
            .collect::<futures::stream::FuturesUnordered<_>>(),
    )
    .await;
    assert!(!delays.is_sorted(), "{delays:?}");
    assert_eq!(slow.faults.counts().delayed, 8);
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_cut_in_time_and_without_a_word() {
    let cut = Asked::with(Rates { cut_watch: 1.0, ..Rates::none() });
    let answer = cut.ask("/pods?watch=true").await.unwrap();
    let begun = Instant::now();
    answer.into_body().collect().await.expect("it ends as if the server had ended it");
    assert!(begun.elapsed() <= Rates::none().cut_within);
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_is_refused_and_loses_what_was_under_way() {
    let asked =
        Asked::with(Rates { delay: 1.0, delay_max: Duration::from_secs(9), ..Rates::none() });
    let watch = asked.ask("/pods?watch=true").await.unwrap();
    let under_way = asked.ask("/");
    let cut = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        asked.faults.cut("me", true);
    };
    let (answer, ()) = tokio::join!(under_way, cut);
    assert!(answer.is_err());
    assert!(watch.into_body().collect().await.is_err(), "the watch is reset");
    assert!(asked.ask("/").await.is_err());

    asked.faults.cut("me", false);
    assert!(asked.ask("/").await.is_ok());
    asked.faults.cut("somebody else", true);
    assert!(asked.ask("/").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_not_heard_but_their_next_life_is() {
    let faults = Faults::new(Plan::new(1));
    let heard: Arc<AtomicU64> = Arc::default();
    let client = || {
        let heard = heard.clone();
        faults.layer("me").layer(service_fn(move |request| server(heard.clone(), request)))
    };
    let request = || Request::get("/").body(Body::empty()).unwrap();
    let (mut old, mut older) = (client(), client());
    faults.disconnect("me");
    let mut new = client();
    assert!(old.call(request()).await.is_err());
    assert!(older.call(request()).await.is_err());
    assert!(new.call(request()).await.is_ok());
    faults.end();
    assert!(old.call(request()).await.is_err(), "the dead stay dead");
}

#[tokio::test(start_paused = true)]
async fn when_faults_end_nothing_goes_wrong() {
    let asked = Asked::with(Rates { fail: 1.0, delay: 1.0, ..Rates::none() });
    asked.faults.cut("me", true);
    asked.faults.fill_store(true);
    asked.faults.end();
    let begun = Instant::now();
    assert_eq!(asked.ask("/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_hits_the_same_requests() {
    let fates = async |seed| {
        let faults = Faults::new(Plan::new(seed).all_along(Rates::heavy()));
        let asked = Asked { faults, heard: Arc::default() };
        for _ in 0..200 {
            let _ = asked.ask("/").await;
        }
        asked.faults.counts()
    };
    let counts = fates(7).await;
    assert!(counts.total() > 20, "{counts:?}");
    assert_eq!(counts, fates(7).await);
    assert_ne!(counts, fates(8).await);
}
