use unbroken::daemon;

#[tokio::main]
#[daemon]
async fn main() {
    std::future::ready(()).await;
}
