//! The body of an answer through a connection that can break.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Sleep, sleep};
use tower::BoxError;

use super::{Faults, fate::WatchFate, layer::broken, link::Link};

/// The body of an answer, until the connection ends.
pub struct FaultBody {
    inner: UnsyncBoxBody<Bytes, BoxError>,
    /// Only of a watch: what else is complete once it is there.
    watch: Option<Watch>,
}

struct Watch {
    faults: Faults,
    stall: (f64, Duration),
    cut: BoxFuture<'static, ()>,
    ends: Option<Pin<Box<Sleep>>>,
    /// A piece that is held back, and until when.
    held: Option<(Frame<Bytes>, Pin<Box<Sleep>>)>,
}

impl std::fmt::Debug for FaultBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultBody").field("watch", &self.watch.is_some()).finish_non_exhaustive()
    }
}

impl FaultBody {
    /// A body that comes as it is.
    pub(super) fn whole(inner: UnsyncBoxBody<Bytes, BoxError>) -> Self {
        Self { inner, watch: None }
    }

    /// The body of a watch, with what is to go wrong with it.
    pub(super) fn watch(
        inner: UnsyncBoxBody<Bytes, BoxError>,
        faults: Faults,
        link: Arc<Link>,
        fate: WatchFate,
    ) -> Self {
        let watch = Watch {
            faults,
            stall: fate.stall,
            cut: async move { link.down().await }.boxed(),
            ends: fate.ends_after.map(|time| Box::pin(sleep(time))),
            held: None,
        };
        Self { inner, watch: Some(watch) }
    }
}

impl Body for FaultBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { inner, watch } = &mut *self;
        let Some(watch) = watch else { return Pin::new(inner).poll_frame(cx) };
        if watch.cut.poll_unpin(cx).is_ready() {
            return Poll::Ready(Some(Err(broken("the connection was reset"))));
        }
        if let Some(ends) = &mut watch.ends
            && ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        if let Some((_, until)) = &mut watch.held {
            ready!(until.as_mut().poll(cx));
            let frame = watch.held.take().map(|(frame, _)| Ok(frame));
            return Poll::Ready(frame);
        }
        let frame = match ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        match watch.faults.stall(watch.stall) {
            None => Poll::Ready(Some(Ok(frame))),
            Some(pause) => {
                let mut until = Box::pin(sleep(pause));
                if until.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                watch.held = Some((frame, until));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.watch.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.watch {
            None => self.inner.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}
