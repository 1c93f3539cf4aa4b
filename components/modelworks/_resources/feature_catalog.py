"""Private: the catalog of a feature store: its views as tables of Glue, and the workgroup that queries them."""

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from modelworks._resources.feature_permissions import QUERIES
from modelworks._resources.feature_views import FeatureViewArgs, catalog_name
from modelworks._resources.kubernetes import KubernetesComponent

_PARQUET = "org.apache.hadoop.hive.ql.io.parquet"


def catalog(component: KubernetesComponent, project: str) -> "aws.glue.CatalogDatabase":
    """The Glue database of a project."""
    return aws.glue.CatalogDatabase(
        component.child_name("catalog"),
        name=project.lower(),
        description="Feature views, for queries",
        opts=pulumi.ResourceOptions(parent=component),
    )


def catalog_tables(
    component: KubernetesComponent,
    database: pulumi.Input[str],
    location: pulumi.Input[str],
    views: Sequence[FeatureViewArgs],
) -> list["aws.glue.CatalogTable"]:
    """A Glue table for each view that has a path."""
    return [
        aws.glue.CatalogTable(
            component.child_name(f"catalog-{view['name']}"),
            name=catalog_name(view["name"]),
            database_name=database,
            table_type="EXTERNAL_TABLE",
            parameters={"classification": "parquet", "EXTERNAL": "TRUE"},
            storage_descriptor={
                "location": pulumi.Output.concat(location, f"/{view['path'].strip('/')}/"),
                "columns": [{"name": column, "type": kind} for column, kind in view["columns"].items()],
                "input_format": f"{_PARQUET}.MapredParquetInputFormat",
                "output_format": f"{_PARQUET}.MapredParquetOutputFormat",
                "ser_de_info": {
                    "serialization_library": f"{_PARQUET}.serde.ParquetHiveSerDe",
                    "parameters": {"serialization.format": "1"},
                },
            },
            opts=pulumi.ResourceOptions(parent=component),
        )
        for view in views
        if view["path"] is not None
    ]


def queries(
    component: KubernetesComponent, bucket: pulumi.Input[str], key_arn: pulumi.Input[str], limit_gib: int
) -> "aws.athena.Workgroup":
    """The Athena workgroup, whose results are in the bucket, encrypted."""
    return aws.athena.Workgroup(
        component.child_name("queries"),
        description="Queries of features: results are encrypted, and one query scans no more than the limit",
        force_destroy=True,  # its queries are a history of texts; their results are in the bucket
        configuration={
            "enforce_workgroup_configuration": True,
            "publish_cloudwatch_metrics_enabled": True,
            "bytes_scanned_cutoff_per_query": limit_gib * 2**30,
            "result_configuration": {
                "output_location": pulumi.Output.concat("s3://", bucket, f"/{QUERIES}/"),
                "encryption_configuration": {
                    "encryption_option": "SSE_KMS",
                    "kms_key_arn": key_arn,
                },
            },
        },
        opts=pulumi.ResourceOptions(parent=component),
    )
