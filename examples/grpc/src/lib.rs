//! A gRPC service whose answers contain the generation and the PID of the worker that served them.

use std::pin::Pin;
use std::time::Duration;

use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use unbroken::Daemon;

use proto::clock_server::{Clock, ClockServer};
use proto::{Answer, Interval, Question};

/// The code generated from `proto/clock.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("clock");
}

/// Returns the routes of the service, for `Daemon::serve`.
pub fn routes(daemon: &Daemon) -> Routes {
    let answer = Answer { generation: daemon.generation(), pid: std::process::id() };
    Routes::new(ClockServer::new(Generation { answer }))
}

struct Generation {
    answer: Answer,
}

#[tonic::async_trait]
impl Clock for Generation {
    async fn now(&self, _: Request<Question>) -> Result<Response<Answer>, Status> {
        Ok(Response::new(self.answer))
    }

    type TicksStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

    async fn ticks(
        &self,
        request: Request<Interval>,
    ) -> Result<Response<Self::TicksStream>, Status> {
        let Interval { millis, count } = request.into_inner();
        if millis == 0 {
            return Err(Status::invalid_argument("millis has to be at least 1"));
        }
        let answer = self.answer;
        let interval = tokio::time::interval(Duration::from_millis(millis.into()));
        let ticks = IntervalStream::new(interval).map(move |_| Ok(answer));
        Ok(Response::new(match count {
            0 => Box::pin(ticks),
            _ => Box::pin(ticks.take(count as usize)),
        }))
    }
}
