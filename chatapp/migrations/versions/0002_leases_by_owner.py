"""leases by owner; answers that are gone on with"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RUNNING = sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "log_owners",
        sa.Column("owner", sa.String(length=36), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_log_owners")),
    )
    with op.batch_alter_table("log_heads", schema=None) as batch_op:
        batch_op.drop_index("ix_log_heads_running", sqlite_where=RUNNING, postgresql_where=RUNNING)
        batch_op.drop_column("lease_until")
        batch_op.add_column(sa.Column("taken", sa.Integer(), nullable=False, server_default="0"))
        batch_op.create_index(
            "ix_log_heads_running", ["owner"], unique=False, sqlite_where=RUNNING, postgresql_where=RUNNING
        )
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_generations_message_id"), type_="unique")
        batch_op.create_index(batch_op.f("ix_generations_message_id"), ["message_id"], unique=False)
        batch_op.add_column(sa.Column("seams", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    op.execute(
        "DELETE FROM generations WHERE id NOT IN (SELECT generation_id FROM messages WHERE generation_id IS NOT NULL)"
    )  # of an answer that was gone on with, the newest stays
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.drop_column("seams")
        batch_op.drop_index(batch_op.f("ix_generations_message_id"))
        batch_op.create_unique_constraint(batch_op.f("uq_generations_message_id"), ["message_id"])
    with op.batch_alter_table("log_heads", schema=None) as batch_op:
        batch_op.drop_index("ix_log_heads_running", sqlite_where=RUNNING, postgresql_where=RUNNING)
        batch_op.drop_column("taken")
        batch_op.add_column(sa.Column("lease_until", sa.Float(), nullable=False, server_default="0"))
        batch_op.create_index(
            "ix_log_heads_running", ["lease_until"], unique=False, sqlite_where=RUNNING, postgresql_where=RUNNING
        )
    op.drop_table("log_owners")
