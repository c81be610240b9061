//! A chat over WebSockets whose browsers stay connected while the program is replaced.
//!
//! Open <http://localhost:8080/> in two browsers, change the program, and run `cargo run -p chat -- restart`:
//! both browsers keep their connections, their names and the messages.
//!
//! At a restart the old worker first hands off the messages (`room`), then each connection (`client`). The
//! program speaks WebSocket itself (`frame`) because half-read frames have to be handed off as well.

mod client;
mod frame;
mod room;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use unbroken::handoff::{HandoffState, IncomingHandoffs};
use unbroken::{Daemon, daemon};

use crate::client::Client;
use crate::room::{Message, Room};

/// A text that the page shows: change it to see which build serves.
const BUILD: &str = "build 1";

/// The state shared by all connections.
#[derive(Clone)]
struct Chat {
    daemon: Daemon,
    room: Arc<Room>,
}

// In the confirm window of a restart the old worker keeps its visitors and the new one takes the next: two
// rooms. Without the window all visitors meet in the new worker at once.
#[daemon(graceful_restart, confirm_window = "0s", listen(http = "127.0.0.1:8080"))]
async fn main(daemon: Daemon) -> anyhow::Result<()> {
    let room = Arc::new(Room::new(daemon.generation()));
    let chat = Chat { daemon: daemon.clone(), room };
    // Before `serve`, which makes this worker ready: from then on connections are handed off to it.
    daemon.spawn(take_rooms(chat.clone(), daemon.handoffs("room")));
    daemon.spawn(take_clients(chat.clone(), daemon.handoffs("client")));
    daemon.spawn(hand_over(chat.clone()));
    daemon.spawn(announce_pauses(chat.clone()));
    let app = Router::new().route("/", get(page)).route("/ws", get(join)).with_state(chat);
    daemon.serve("http", app).await?;
    Ok(())
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

#[derive(serde::Deserialize)]
struct Join {
    name: String,
}

/// Answers the WebSocket handshake (RFC 6455 §4.2). After it, the program uses the stream directly: only then
/// can the stream be handed off together with every byte that was read from it.
async fn join(
    State(chat): State<Chat>,
    Query(Join { name }): Query<Join>,
    headers: HeaderMap,
    mut request: Request,
) -> Response {
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return (StatusCode::BAD_REQUEST, "this is a WebSocket\n").into_response();
    };
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let name = name.chars().take(40).collect();
    chat.daemon.clone().spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return eprintln!("no upgrade: {error}"),
        };
        if let Ok((stream, read)) = unbroken::http::into_stream(upgraded) {
            Client::new(name, &read).run(chat.daemon, chat.room, stream).await;
        }
    });
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, &accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// How long a pause lasts before the visitors are notified. Without a confirm window, a pause is over long
/// before.
const NOTABLE_PAUSE: Duration = Duration::from_millis(500);

/// Where `confirm_window` is set all the same: tells the visitors of this worker that new ones are with the
/// next version until the restart is confirmed, and that they are back if it is aborted.
async fn announce_pauses(chat: Chat) {
    let announce = |text: &str| {
        // A closed room belongs to a worker that drains.
        let _ = chat.room.say(Message { name: "chat".to_owned(), text: text.to_owned() });
    };
    let pauses = async {
        loop {
            chat.daemon.paused().await;
            tokio::time::sleep(NOTABLE_PAUSE).await;
            if chat.daemon.is_paused() {
                announce("a new version is starting; new visitors join in a moment");
                chat.daemon.resumed().await;
                announce("the new version failed; this one goes on");
            }
        }
    };
    tokio::select! {
        () = pauses => {}
        () = chat.daemon.draining() => {}
    }
}

/// Waits for the drain and hands off the messages. The clients wait for that before they are handed off.
async fn hand_over(chat: Chat) {
    chat.daemon.draining().await;
    let history = chat.room.close();
    // A handoff is a socket with a state. Only the state is used here, so any socket will do.
    let passed = async {
        let (socket, _) = tokio::net::UnixStream::pair()?;
        let saved = HandoffState { version: 1, bytes: serde_json::to_vec(&history)? };
        anyhow::Ok(chat.daemon.hand_off("room", socket, saved).await?)
    };
    if let Err(error) = passed.await {
        eprintln!("what was said is lost: {error}");
    }
    chat.room.handed_over();
}

/// Accepts the messages of older generations.
async fn take_rooms(chat: Chat, mut rooms: IncomingHandoffs) {
    while let Some(offer) = rooms.next().await {
        // Dropping the offer refuses a version that this build does not know.
        if let (1, Ok(history)) = (offer.state().version, room::History::read(offer.state())) {
            chat.room.add(history);
            if let Err(error) = offer.accept_socket().await {
                eprintln!("what was said stays with the older generation: {error}");
            }
        }
    }
}

/// Accepts the clients of older generations.
async fn take_clients(chat: Chat, mut clients: IncomingHandoffs) {
    while let Some(offer) = clients.next().await {
        let Some(client) = Client::restore(offer.state()) else { continue };
        match offer.accept().await {
            Ok((stream, _)) => {
                let Chat { daemon, room } = chat.clone();
                chat.daemon.spawn(client.run(daemon, room, stream));
            }
            Err(error) => eprintln!("a client stays with the old generation: {error}"),
        }
    }
}
