"""Features of flights, as ordinary Feast objects. `modelworks features apply` writes their manifest from them."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

airport = Entity(name="airport", join_keys=["origin"], value_type=ValueType.STRING)
aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)

# A relative path lies in the feature store of whichever environment reads it.
weather = FeatureView(
    name="weather",
    entities=[airport],
    schema=[Field(name="wind_speed", dtype=Float64), Field(name="visibility", dtype=Float64)],
    ttl=timedelta(hours=2),
    source=FileSource(name="weather", path="weather", timestamp_field="hour"),
)
delays = FeatureView(
    name="delays",
    entities=[aircraft],
    schema=[Field(name="mean_delay", dtype=Float64), Field(name="flights", dtype=Int64)],
    ttl=timedelta(days=7),
    source=FileSource(name="delays", path="delays", timestamp_field="landed", created_timestamp_column="loaded"),
)

flight = FeatureService(name="flight", features=[weather, delays])
