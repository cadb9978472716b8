//! Slow start: many equal requests, without sending all of them into the same refusal.

use std::future::Future;

use futures::future::join_all;

/// Calls `request` for each of `items` in parallel batches of 1, 2, 4, ... and stops after a batch
/// in which any call failed: a quota or an admission plug-in that refuses one Pod refuses the next
/// thousand too. Returns how many succeeded, the items never tried, and the first error.
pub async fn slow_start<T, F, Fut, E>(items: Vec<T>, mut request: F) -> (usize, Vec<T>, Option<E>)
where
    F: FnMut(T) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut succeeded = 0;
    let mut batch_size = 1;
    let mut remaining = items.into_iter();
    while remaining.len() > 0 {
        let batch: Vec<_> = remaining.by_ref().take(batch_size).map(&mut request).collect();
        let mut first_error = None;
        for result in join_all(batch).await {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if first_error.is_some() {
            return (succeeded, remaining.collect(), first_error);
        }
        batch_size *= 2;
    }
    (succeeded, Vec::new(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_double_while_all_goes_well() {
        let (succeeded, skipped, error) =
            slow_start((0..10).collect(), async |_| Ok::<_, ()>(())).await;
        assert_eq!((succeeded, skipped, error), (10, vec![], None));
    }

    #[tokio::test]
    async fn a_failure_ends_the_work_after_its_batch() {
        let refuse_from_the_third = async |n: usize| if n >= 2 { Err(n) } else { Ok(()) };
        let (succeeded, skipped, error) =
            slow_start((0..10).collect(), refuse_from_the_third).await;
        // Batches {0}, {1, 2}: the second fails in part, the rest is never sent.
        assert_eq!((succeeded, skipped, error), (2, (3..10).collect(), Some(2)));
    }
}
