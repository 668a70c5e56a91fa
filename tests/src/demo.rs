//! placeholder
use crate::lab::Lab;
use anyhow::Result;
/// placeholder
pub async fn show(_lab: &Lab, _say: fn(&str)) -> Result<()> {
    Ok(())
}
/// placeholder
pub async fn prove(_lab: &Lab, _say: fn(&str)) -> Result<()> {
    Ok(())
}
